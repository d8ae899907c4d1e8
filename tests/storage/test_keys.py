import pytest
from cryptography.fernet import Fernet

from garmin_auth.models import GarminAuthenticationState
from garmin_auth.storage.keys import (
    decrypt,
    encrypt,
    key_of,
    number_of_keys,
    under_first_key,
    unreadable,
)
from tests.conftest import raw_row, state_of
from tests.rows import damage, store

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


def ciphertext_of(user):
    return bytes(raw_row(user)["session_data"])


def test_the_key_that_encrypted_is_found(user):
    store(user)

    assert key_of(ciphertext_of(user)) == 0


def test_what_is_encrypted_is_decrypted_and_encrypted_anew():
    ciphertext = encrypt("a session, ü")
    assert decrypt(str(ciphertext)) == ciphertext.decrypt() == "a session, ü"

    again = under_first_key(str(ciphertext).encode())
    assert again != str(ciphertext).encode()
    assert decrypt(again.decode()) == "a session, ü"
    assert (key_of(again), number_of_keys()) == (0, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("keys", "position"),
    [
        (["a-key-for-tests-and-the-demo", "other"], 0),
        (["new", "a-key-for-tests-and-the-demo"], 1),
        (["new", "newer", "a-key-for-tests-and-the-demo"], 2),
        (["new", "newer"], None),
    ],
)
def test_the_position_of_the_key_is_told(user, run_python, tmp_path, keys, position):
    store(user)
    (tmp_path / "keys_settings.py").write_text(
        f"from tests.settings import *\nFERNET_KEYS = {keys!r}"
    )

    printed = run_python(
        "import sys\n"
        "from garmin_auth.storage.keys import key_of, unreadable\n"
        "print(key_of(bytes.fromhex(sys.argv[1])), len(unreadable([int(sys.argv[2])])))",
        ciphertext_of(user).hex(),
        state_of(user).pk,
        DJANGO_SETTINGS_MODULE="keys_settings",
        PYTHONPATH=str(tmp_path),
    )

    assert printed == f"{position} {1 if position is None else 0}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"x",
        lambda text: text.rstrip(b"=")[:-1],  # Python 3.15 takes it without the padding.
        lambda text: text[:-8],
        lambda text: text[: len(text) // 2],
        lambda text: text[:10],
        lambda text: text[:-5] + (b"AAAAA" if text[-5:] != b"AAAAA" else b"BBBBB"),
        lambda text: b"\xff" * 100,
        lambda text: Fernet(Fernet.generate_key()).encrypt(b"session"),
    ],
)
def test_no_key_opens_what_is_damaged_or_of_another_key(user, damage):
    store(user)

    assert key_of(damage(ciphertext_of(user))) is None


def test_unreadable_rows_are_told_with_one_query(user, other_user, django_assert_num_queries):
    store(user)
    store(other_user)
    damage(other_user)
    mine, others = state_of(user).pk, state_of(other_user).pk

    with django_assert_num_queries(1):
        assert unreadable([mine, others]) == {others}


def test_only_the_rows_asked_for_are_told(user, other_user):
    store(user)
    store(other_user)
    damage(user)
    damage(other_user)

    assert unreadable([state_of(user).pk]) == {state_of(user).pk}


def test_a_row_without_a_session_is_not_unreadable(user):
    store(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "user")

    assert unreadable([state_of(user).pk]) == set()


def test_only_the_session_counts(user):
    store(user)
    damage(user, "account_name")

    assert unreadable([state_of(user).pk]) == set()


def test_no_rows_are_no_unreadable_ones():
    assert unreadable([]) == set()
