"""The encrypted columns: what reads whole rows sees ciphertext, and what it writes back is kept."""

import copy
import json
import pickle
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core import serializers
from django.core.management import call_command
from django.db import connection

from garmin_auth.exceptions import SessionUnreadable
from garmin_auth.health import Outcome, check_session
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.storage.fields import Ciphertext
from tests.conftest import EMAIL, raw_row, state_of
from tests.rows import damage, store

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
states = GarminAuthenticationState.objects
COLUMNS = ("session_data", "account_name", "mfa_challenge")


@pytest.fixture
def full(user):
    """A user with a session, a name and a pending login."""
    store(user, session_data="the session", account_name=EMAIL)
    states.begin_challenge(user.pk, '{"cookies": "the cookies"}')
    return user


def ciphertexts(user):
    return {name: bytes(raw_row(user)[name]) for name in COLUMNS}


def dump(form):
    output = StringIO()
    call_command("dumpdata", "garmin_auth", format=form, stdout=output)
    return output.getvalue()


# What reads whole rows


def test_an_instance_holds_ciphertext(full):
    state = state_of(full)

    for name, stored in ciphertexts(full).items():
        assert getattr(state, name) == stored.decode()
    assert "the session" not in repr(vars(state))


@pytest.mark.parametrize("form", ["json", "jsonl", "xml"])
def test_a_dump_shows_ciphertext_and_can_be_loaded(full, tmp_path, form):
    before, row = ciphertexts(full), raw_row(full)
    text = dump(form)
    for secret in ("the session", "the cookies", EMAIL):
        assert secret not in text
    (tmp_path / f"dump.{form}").write_text(text)
    states.all().delete()

    call_command("loaddata", tmp_path / f"dump.{form}", verbosity=0)

    assert ciphertexts(full) == before
    assert state_of(full).session_data.decrypt() == "the session"
    assert raw_row(full)["session_version"] == row["session_version"]


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_damaged_row_breaks_no_dump_and_is_loaded_as_it_was(full, other_user, tmp_path, form):
    store(other_user)
    damage(full, "session_data", "mfa_challenge")
    before = ciphertexts(full)
    (tmp_path / f"dump.{form}").write_text(dump(form))
    states.all().delete()

    call_command("loaddata", tmp_path / f"dump.{form}", verbosity=0)

    assert ciphertexts(full) == before
    assert state_of(other_user).session_data.decrypt() == "session"


def test_a_value_of_a_dump_can_be_opened_before_it_is_saved(full):
    damage(full, "mfa_challenge")

    state = in_dump(dump("json"))

    assert state.session_data.decrypt() == "the session"
    with pytest.raises(SessionUnreadable):
        state.mfa_challenge.decrypt()


def in_dump(text):
    [row] = serializers.deserialize("json", text)
    return row.object


def test_a_fixture_written_by_hand_is_encrypted(user, tmp_path):
    now = "2026-01-01T00:00:00Z"
    fields = {"user": user.pk, "session_data": "plain", "connected_at": now}
    fields |= {"created_at": now, "updated_at": now}
    (row,) = serializers.deserialize(
        "json", json.dumps([{"model": "garmin_auth.garminauthenticationstate", "fields": fields}])
    )
    row.save()

    assert ciphertexts_start(user)
    assert state_of(user).session_data.decrypt() == "plain"


def ciphertexts_start(user):
    return bytes(raw_row(user)["session_data"]).startswith(b"gAAAAA")


def test_an_instance_that_was_never_saved_is_serialised_encrypted(user):
    state = GarminAuthenticationState(user=user, session_data="the session")

    text = serializers.serialize("json", [state], fields=["session_data"])

    assert "the session" not in text
    assert in_dump(text).session_data.decrypt() == "the session"


def test_a_join_opens_nothing(full, monkeypatch):
    damage(full)
    monkeypatch.setattr(
        "cryptography.fernet.MultiFernet.decrypt", lambda *args: pytest.fail("It was decrypted.")
    )

    (found,) = User.objects.filter(pk=full.pk).select_related("garmin_authentication")

    assert found.garmin_authentication.status == "mfa_pending"
    assert states.select_related("user").get().user == full


# What is written back


@pytest.mark.parametrize("way", ["saved", "copied", "pickled", "updated"])
def test_a_value_that_was_read_is_written_as_it_was(full, way):
    before, state = ciphertexts(full), state_of(full)

    if way == "updated":
        states.update(session_data=state.session_data)
    else:
        change = {"saved": lambda x: x, "copied": copy.deepcopy, "pickled": by_pickle}[way]
        change(state).save()

    assert ciphertexts(full) == before


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def test_a_validated_instance_is_saved_as_it_was(full):
    before, state = ciphertexts(full), state_of(full)

    state.full_clean(exclude=["user"])
    state.save()

    assert ciphertexts(full) == before


def test_a_new_text_is_encrypted_also_after_validation(user):
    store(user)
    state = state_of(user)
    state.session_data = "new"

    state.full_clean(exclude=["user"])
    state.save()

    assert ciphertexts_start(user)
    assert state_of(user).session_data.decrypt() == "new"


# What cannot be read


@pytest.mark.parametrize(
    "value", [b"x", b"", b"\xff\xfe", b"gAAAAAshort", b"gAAAAA" + b"x" * 92 + b"=="]
)
def test_what_no_key_opens_says_so(user, value):
    store(user)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {states.model._meta.db_table} SET session_data = %s", [value])

    with pytest.raises(SessionUnreadable):
        state_of(user).session_data.decrypt()
    assert check_session(user).outcome is Outcome.UNREADABLE
    assert bytes(state_of(user).session_data) == value


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite keeps text in a blob")
def test_text_in_the_column_breaks_nothing(user):
    store(user)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {states.model._meta.db_table} SET session_data = 'ö €'")

    with pytest.raises(SessionUnreadable, match="damaged"):
        state_of(user).session_data.decrypt()
    assert "damaged:" in dump("json")


def test_a_copied_row_can_still_be_opened(full):
    assert copy.deepcopy(state_of(full)).session_data.decrypt() == "the session"


def test_a_ciphertext_is_no_plaintext():
    field = states.model._meta.get_field("session_data")
    token = Ciphertext(field.fernet.encrypt(b"the session").decode(), field)

    assert token.decrypt() == "the session"
    assert "the session" not in f"{token} {token!r}"
