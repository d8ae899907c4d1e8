"""``import_garmin_session``: what is stored, what is refused, and that nothing is ever repeated."""

import base64
import contextlib
import io
import itertools
import json
import os
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from garmin_auth.exceptions import SessionUnreadable
from garmin_auth.limits import cooldown
from garmin_auth.login import import_session, import_session_folder
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, needs_garminconnect, raw_row, state_of

pytestmark = pytest.mark.django_db
in_a_process = pytest.mark.django_db(transaction=True)
PROFILE = "/userprofile-service/socialProfile"


@dataclass
class Run:
    code: int
    output: str
    errors: str


@pytest.fixture
def token(garmin, account):
    """A GARTH_TOKEN of the account."""
    return garmin.issue_session(account)


@pytest.fixture
def run(start_python):
    """Run the command as a process. What it was given is never repeated."""

    def run(given, *arguments, **environment):
        process = start_python("manage.py", "import_garmin_session", *arguments, **environment)
        if isinstance(given, str):
            given = given.encode()
        process.stdin.buffer.write(given)
        output, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        repeats_nothing(output + errors, given)
        return Run(process.returncode, output, errors)

    return run


@pytest.fixture
def call(monkeypatch):
    """Run the command in this process. What it was given is never repeated."""

    def call(given, *arguments):
        if isinstance(given, str):
            given = given.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        output, errors, code = StringIO(), StringIO(), 0
        try:
            call_command(
                "import_garmin_session", *map(str, arguments), stdout=output, stderr=errors
            )
        except CommandError as exc:
            code = exc.returncode
            errors.write(str(exc))
            repeats_nothing(repr((exc, exc.__cause__, exc.__context__)), given)
        repeats_nothing(output.getvalue() + errors.getvalue(), given)
        return Run(code, output.getvalue(), errors.getvalue())

    return call


@pytest.fixture
def folder(tmp_path, token):
    """A folder as garth's ``dump()`` writes it."""
    return write_folder(tmp_path / "garth", *decode(token))


def repeats_nothing(said, given):
    """Prove that no secret of what was given, in whatever form, is in what was said."""
    text = given.decode(errors="replace")
    secrets = {text.strip(), *re.findall(r"[\w.~+/=-]{24,}", text)}
    with contextlib.suppress(ValueError):
        secrets |= set(re.findall(r'"([^"]{20,})"', base64.b64decode(text).decode()))
    assert not [secret for secret in secrets if len(secret) > 3 and secret in said]


def decode(token):
    return json.loads(base64.b64decode(token))


def encode(content):
    return base64.b64encode(json.dumps(content).encode()).decode()


def write_folder(path, oauth1, oauth2):
    path.mkdir()
    (path / "oauth1_token.json").write_text(json.dumps(oauth1, indent=4))
    (path / "oauth2_token.json").write_text(json.dumps(oauth2, indent=4))
    return path


def nothing_stored():
    return not GarminAuthenticationState.objects.exists()


# Accepted


@in_a_process
def test_a_token_on_standard_input_is_stored(run, user, token):
    result = run(token, "ana")

    assert result.code == 0
    assert result.output == (
        "The session of ana is stored (not checked yet: run check_garmin_sessions).\n"
    )
    assert state_of(user).status == Status.ACTIVE


def test_an_imported_session_works(call, user, token, garmin):
    call(token, "ana")
    assert sum(garmin.counts.values()) == 0

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_an_imported_session_is_stored_encrypted(call, user, token):
    call(token, "ana")

    assert bytes(raw_row(user)["session_data"]).startswith(b"gAAAA")


def test_without_check_nothing_is_said_to_have_worked(call, user, token):
    call(token, "ana")

    assert state_of(user).last_validated is None
    assert state_of(user).account_name is None


@pytest.mark.parametrize("form", ["{}\n", "  {}\r\n\r\n", "\n\n{}"])
def test_white_space_around_a_token_does_not_matter(call, user, token, form):
    assert call(form.format(token), "ana").code == 0


def test_a_token_broken_into_lines_is_accepted(call, user, token):
    assert call(re.sub("(.{76})", r"\1\n", token), "ana").code == 0


def test_a_token_of_old_garth_without_mfa_and_domain_works(call, user, token):
    oauth1, oauth2 = decode(token)
    old = {name: oauth1[name] for name in ("oauth_token", "oauth_token_secret")}

    assert call(encode([old, oauth2]), "ana").code == 0

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_token_of_an_mfa_account_works(call, user, garmin, mfa_account):
    assert call(garmin.issue_session(mfa_account, access_expired=True), "ana").code == 0

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


@in_a_process
def test_a_folder_is_stored(run, user, folder):
    assert run("", "ana", "--dir", folder).code == 0

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


@in_a_process
@pytest.mark.parametrize("mfa", [False, True])
def test_a_folder_that_garth_itself_wrote_is_stored(run, start_python, user, garmin, tmp_path, mfa):
    garmin.add_account(EMAIL, "password", mfa=mfa)
    dump = start_python(
        "-c",
        "import garth, sys\n"
        "client = garth.Client()\n"
        "client.loads(sys.stdin.read())\n"
        "client.dump(sys.argv[1])",
        tmp_path / "garth",
    )
    _, errors = dump.communicate(garmin.issue_session(EMAIL), timeout=60)
    assert dump.returncode == 0, errors

    assert run("", "ana", "--dir", tmp_path / "garth", "--check").code == 0


def test_a_folder_in_the_home_directory_is_found(call, user, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))

    assert call("", "ana", "--dir", "~/garth").code == 0


def test_an_import_replaces_a_session(call, user, connect, garmin, token):
    connect(user, "other@example.com")
    before = state_of(user)

    call(token, "ana")

    assert state_of(user).session_version == before.session_version + 1
    assert state_of(user).account_name is None
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_an_import_ends_a_pending_login(call, user, token):
    GarminAuthenticationState.objects.begin_challenge(user.pk, "{}")

    call(token, "ana")

    assert state_of(user).status == Status.ACTIVE


def test_an_import_touches_nobody_elses_session(call, user, other_user, connect, token):
    connect(other_user, "ben@example.com")
    before = raw_row(other_user)

    call(token, "ana")

    assert raw_row(other_user) == before


# Whose


def test_an_unknown_user_is_refused_before_anything_is_read(call, user, token):
    result = call(token, "nobody")

    assert (result.code, result.errors) == (1, "There is no user whose username is 'nobody'.")
    assert nothing_stored()


def test_the_user_is_found_by_the_username_field_only(call, user, token):
    assert call(token, "ana@site.example").code == 1
    assert call(token, str(user.pk)).code == 1
    assert nothing_stored()


def test_the_username_field_may_be_another(call, user, token, monkeypatch, django_user_model):
    monkeypatch.setattr(django_user_model, "USERNAME_FIELD", "email")

    assert call(token, "ana@site.example").code == 0


def test_what_cannot_be_a_value_of_the_username_field_is_no_user(
    call, user, token, monkeypatch, django_user_model
):
    monkeypatch.setattr(django_user_model, "USERNAME_FIELD", "id")

    assert call(token, "ana").errors == "There is no user whose id is 'ana'."


@in_a_process
def test_a_user_must_be_named(run):
    result = run("", "--check")

    assert result.code == 2
    assert "required: USER" in result.errors


# Refused, offline


TOKENLESS = [
    ("", "nothing was given"),
    (" \n\t ", "nothing was given"),
    ("random text, not a token at all", "not a GARTH_TOKEN, or a part of it is missing"),
    ("GARTH_TOKEN='W3sib2F1dGhfdG9rZW4iOiAi'", "not a GARTH_TOKEN"),
    ("ünïcode", "not a GARTH_TOKEN"),
    ("=" * 40, "not a GARTH_TOKEN"),
    ("[" * 100_000, "JSON, not a GARTH_TOKEN"),
    (base64.b64encode(b"[" * 100_000).decode(), "not a GARTH_TOKEN"),
    (base64.b64encode(b"\xff\xfe\x00 not JSON").decode(), "not a GARTH_TOKEN"),
    ("bnVsbA==", "not a GARTH_TOKEN"),
    (encode({"tokens": "of another engine"}), "does not contain garth's two tokens"),
    (encode("text"), "does not contain garth's two tokens"),
    (encode([]), "does not contain garth's two tokens"),
    (encode(["a", "b"]), "does not contain garth's two tokens"),
    (encode([{}, {}]), "do not have the fields that garth"),
    ('{"di_token": "a-token-of-another-engine-entirely"}', "JSON, not a GARTH_TOKEN"),
    (b"\xff\xfe\xfd\x00", "not text"),
]


@pytest.mark.parametrize(
    ("given", "sentence"), TOKENLESS, ids=[str(number) for number in range(len(TOKENLESS))]
)
def test_what_is_no_token_is_refused_and_nothing_stored(call, user, given, sentence):
    result = call(given, "ana")

    assert (result.code, result.output) == (1, "")
    assert sentence in result.errors
    assert result.errors.endswith("Nothing was stored.")
    assert nothing_stored()


@in_a_process
@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "ascii"])
def test_bytes_that_are_no_text_are_refused_by_a_process(run, user, encoding):
    result = run(b"\xff\xfe" * 20, "ana", PYTHONIOENCODING=encoding)

    assert result.code == 1
    assert result.errors.startswith("CommandError: ")
    assert result.errors.endswith("Nothing was stored.\n")
    assert nothing_stored()


@in_a_process
def test_a_refusal_of_a_process_is_one_sentence_on_standard_error(run, user, token):
    result = run(token[:-30], "ana")

    assert (result.code, result.output) == (1, "")
    assert "CommandError: This is not a GARTH_TOKEN, or a part of it " in result.errors
    assert result.errors.endswith("Nothing was stored.\n")
    assert nothing_stored()


@pytest.mark.parametrize("missing", [1, 2, 3, 30, 500])
def test_a_truncated_token_is_refused(call, user, token, missing):
    # 4 characters hold 3 bytes: without the padding the JSON can still be whole.
    whole = token.rstrip("=")

    result = call(whole[:-missing], "ana")

    assert result.code == 1
    assert "not a GARTH_TOKEN, or a part of it is missing" in result.errors
    assert nothing_stored()


def changed(change):
    """Return a function that makes a GARTH_TOKEN another by ``change(oauth1, oauth2)``."""

    def make(token):
        oauth1, oauth2 = decode(token)
        return encode(change(oauth1, oauth2))

    return make


def without(tokens, name):
    return {key: value for key, value in tokens.items() if key != name}


FIELDS = "do not have the fields that garth"
DOMAIN = "The session is not for garmin.com"
OTHERS = {
    "three tokens": (lambda one, two: [one, two, two], "does not contain garth's two tokens"),
    "one token": (lambda one, two: [two], "does not contain garth's two tokens"),
    "a dict of both": (
        lambda one, two: {"oauth1": one, "oauth2": two},
        "does not contain garth's two tokens",
    ),
    "in the wrong order": (lambda one, two: [two, one], FIELDS),
    "no secret": (lambda one, two: [without(one, "oauth_token_secret"), two], FIELDS),
    "no access token": (lambda one, two: [one, without(two, "access_token")], FIELDS),
    "no expiry": (lambda one, two: [one, without(two, "expires_at")], FIELDS),
    "an unknown field of the first": (lambda one, two: [{**one, "new": 1}, two], FIELDS),
    "an unknown field of the second": (lambda one, two: [one, {**two, "new": 1}], FIELDS),
    "China": (lambda one, two: [{**one, "domain": "garmin.cn"}, two], DOMAIN),
    "evil": (lambda one, two: [{**one, "domain": "evil.example"}, two], DOMAIN),
    "evil in front": (lambda one, two: [{**one, "domain": "garmin.com.evil.example"}, two], DOMAIN),
    "evil path": (lambda one, two: [{**one, "domain": "evil.example/garmin.com"}, two], DOMAIN),
    "no domain at all": (lambda one, two: [{**one, "domain": ""}, two], DOMAIN),
    "a list for a domain": (lambda one, two: [{**one, "domain": ["garmin.com"]}, two], DOMAIN),
    "a number for a token": (lambda one, two: [{**one, "oauth_token": 12}, two], "not a session"),
    "null for a token": (lambda one, two: [one, {**two, "access_token": None}], "not a session"),
    "text for a time": (lambda one, two: [one, {**two, "expires_at": "soon"}], "not a session"),
    "a header in a token": (
        lambda one, two: [one, {**two, "access_token": "x\r\nX-Evil: 1"}],
        "illegal characters",
    ),
    "an empty token": (lambda one, two: [one, {**two, "access_token": ""}], "illegal characters"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_shape_is_refused_and_nothing_stored(call, user, token, name):
    change, sentence = OTHERS[name]

    result = call(changed(change)(token), "ana")

    assert (result.code, result.output) == (1, "")
    assert sentence in result.errors
    assert result.errors.endswith("Nothing was stored.")
    assert nothing_stored()


@pytest.fixture
def chinese_account(garmin):
    return garmin.add_account(EMAIL, PASSWORD, domain="garmin.cn")["email"]


def test_a_session_of_garmin_china_is_refused(call, user, garmin, chinese_account):
    result = call(garmin.issue_session(chinese_account), "ana")

    assert DOMAIN in result.errors
    assert nothing_stored()


def test_a_session_of_garmin_china_is_for_a_site_in_china(
    call, user, garmin, chinese_account, settings
):
    settings.GARMIN_AUTH_DOMAIN = "garmin.cn"

    assert call(garmin.issue_session(chinese_account), "ana", "--check").code == 0


@pytest.mark.parametrize("number", [0, 1])
def test_a_raw_token_file_on_standard_input_is_refused(call, user, token, number):
    result = call(json.dumps(decode(token)[number], indent=4), "ana")

    assert "This is JSON, not a GARTH_TOKEN" in result.errors
    assert "--dir" in result.errors
    assert nothing_stored()


def test_a_refused_import_keeps_what_is_stored(call, user, connect):
    connect(user)
    before = raw_row(user)

    assert call("nonsense", "ana").code == 1
    assert raw_row(user) == before


# Refused folders


def test_a_missing_folder_is_refused(call, user, tmp_path):
    result = call("", "ana", "--dir", tmp_path / "nowhere")

    assert result.code == 1
    assert f"There is no oauth1_token.json in {tmp_path / 'nowhere'}" in result.errors
    assert nothing_stored()


def test_a_home_of_nobody_is_refused(call, user):
    result = call("", "ana", "--dir", "~no-such-user/.garth")

    assert result.code == 1
    assert "~no-such-user" in result.errors
    assert nothing_stored()


@pytest.mark.parametrize("name", ["oauth1_token.json", "oauth2_token.json"])
def test_a_missing_file_is_refused_by_name(call, user, folder, name):
    (folder / name).unlink()

    assert f"There is no {name} in {folder}" in call("", "ana", "--dir", folder).errors
    assert nothing_stored()


def test_a_file_in_place_of_a_folder_is_refused(call, user, folder):
    result = call("", "ana", "--dir", folder / "oauth1_token.json")

    assert result.code == 1
    assert "cannot be read: Not a directory." in result.errors


def test_a_folder_in_place_of_a_file_is_refused(call, user, folder):
    (folder / "oauth2_token.json").unlink()
    (folder / "oauth2_token.json").mkdir()

    result = call("", "ana", "--dir", folder)

    assert "oauth2_token.json cannot be read: Is a directory." in result.errors
    assert nothing_stored()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON, or a part of it is missing."),
        (b'{"oauth_token": "secr', "is not JSON, or a part of it is missing."),
        (b"\xff\xfe{}", "is not JSON, or a part of it is missing."),
        (b"[" * 100_000, "is not JSON, or a part of it is missing."),
        (b"[]", "does not hold one of garth's tokens."),
        (b"null", "does not hold one of garth's tokens."),
        (b"{}", FIELDS),
    ],
)
def test_a_file_with_something_else_is_refused(call, user, folder, content, sentence):
    (folder / "oauth2_token.json").write_bytes(content)

    result = call("", "ana", "--dir", folder)

    assert (result.code, result.output) == (1, "")
    assert sentence in result.errors
    assert "secr" not in result.errors.replace("secret", "")
    assert nothing_stored()


def test_a_folder_of_another_domain_is_refused(call, user, tmp_path, token):
    oauth1, oauth2 = decode(token)
    folder = write_folder(tmp_path / "china", {**oauth1, "domain": "garmin.cn"}, oauth2)

    result = call("", "ana", "--dir", folder)

    assert DOMAIN in result.errors
    assert oauth2["access_token"] not in result.errors
    assert nothing_stored()


# Asking Garmin


@in_a_process
def test_check_asks_garmin_and_stores_what_works(run, user, token, garmin):
    result = run(token, "ana", "--check")

    assert (result.code, result.output) == (0, "The session of ana is stored and works.\n")
    assert garmin.counts["api"] == 1
    assert state_of(user).last_validated is not None
    assert state_of(user).account_name.decrypt() == EMAIL


def test_a_check_stores_when_it_was_and_whose_account_it_is(call, user, token):
    call(token, "ana", "--check")

    assert state_of(user).last_validated is not None
    assert state_of(user).account_name.decrypt() == EMAIL


def test_in_python_too_garmin_is_asked_only_where_a_check_is_wanted(user, token, folder, garmin):
    import_session(user, token, engine="garth")
    import_session_folder(user, folder, engine="garth")
    assert sum(garmin.counts.values()) == 0

    import_session_folder(user, folder, engine="garth", check=True)
    assert garmin.counts["api"] == 1


def test_in_python_too_a_session_is_for_the_domain_that_is_named(user, token, folder, settings):
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    for function, given in ((import_session, token), (import_session_folder, folder)):
        with pytest.raises(SessionUnreadable):
            function(user, given, engine="garth", domain="garmin.cn")

    assert nothing_stored()


@pytest.mark.parametrize("function", [import_session, import_session_folder])
def test_a_transaction_is_refused_with_the_name_of_the_function(user, function):
    with transaction.atomic(), pytest.raises(RuntimeError, match=rf"^{function.__name__}\(\) "):
        function(user, "")


def test_check_refuses_a_revoked_session(call, user, token, garmin):
    garmin.revoke(EMAIL)

    result = call(token, "ana", "--check")

    assert (result.code, result.errors) == (
        1,
        "Garmin has ended this session. Nothing was stored.",
    )
    assert nothing_stored()


def test_without_check_a_revoked_session_is_stored(call, user, token, garmin):
    garmin.revoke(EMAIL)

    assert call(token, "ana").code == 0


def test_check_refreshes_an_expired_access_token_and_stores_the_new_one(
    call, user, garmin, account
):
    token = garmin.issue_session(account, access_expired=True)

    assert call(token, "ana", "--check").code == 0

    stored = decode(state_of(user).session_data.decrypt())[1]
    assert stored["access_token"] != decode(token)[1]["access_token"]
    with garmin_client(user) as client:
        client.connectapi(PROFILE)
    assert garmin.counts["exchange"] == 1


def test_check_refreshes_an_access_token_that_is_refused(call, user, token, garmin):
    garmin.expire_access_tokens(EMAIL)

    assert call(token, "ana", "--check").code == 0
    assert state_of(user).session_data.decrypt() != token


@pytest.mark.parametrize("step", ["api", "exchange"])
def test_check_says_when_garmin_limits_the_rate_and_begins_a_pause(
    call, user, garmin, account, step
):
    garmin.fail(step, "rate_limited")

    result = call(garmin.issue_session(account, access_expired=True), "ana", "--check")

    assert result.code == 1
    assert result.errors.startswith("Garmin is rate limiting this site")
    assert "Nothing was stored. Try again later, or leave out --check." in result.errors
    assert nothing_stored()
    assert cooldown.seconds_left(cooldown.site_scope("garmin.com"))


@pytest.mark.parametrize("fault", ["status", "blocked", "html", "reset"])
def test_check_says_when_garmin_does_not_work(call, user, token, garmin, fault):
    garmin.fail("api", fault, times=None)

    result = call(token, "ana", "--check")

    assert result.code == 1
    assert result.errors.startswith("The session could not be checked: ")
    assert "Nothing was stored. Try again later" in result.errors
    assert nothing_stored()


def test_check_of_a_folder_refuses_a_revoked_session(call, user, folder, garmin):
    garmin.revoke(EMAIL)

    assert "Garmin has ended this session" in call("", "ana", "--dir", folder, "--check").errors
    assert nothing_stored()


# A broken set-up


def test_an_unknown_engine_is_refused(call, user, token):
    result = call(token, "ana", "--engine", "nonsense")

    assert result.code == 1
    assert result.errors == (
        "There is no Garmin engine 'nonsense'. Known engines: garminconnect, garth, personal."
    )
    assert nothing_stored()


def test_an_engine_can_be_named(call, user, token, settings):
    settings.GARMIN_AUTH_ENGINE = "flawed"
    settings.GARMIN_AUTH_ENGINES = {"flawed": "tests.test_health.FlawedEngine"}

    assert call(token, "ana", "--engine", "garth").code == 0
    assert state_of(user).engine == "garth"


def test_an_engine_without_folders_says_so(call, user, folder, settings):
    settings.GARMIN_AUTH_ENGINES = {"flawed": "tests.test_health.FlawedEngine"}

    result = call("", "ana", "--engine", "flawed", "--dir", folder)

    assert result.errors.startswith("The engine flawed keeps no sessions in folders.")
    assert nothing_stored()


def test_bad_settings_are_said_in_a_sentence(call, user, token, settings):
    settings.GARMIN_AUTH_DOMAIN = "evil.example"

    result = call(token, "ana")

    assert (result.code, result.output) == (1, "")
    assert result.errors.startswith("GARMIN_AUTH_DOMAIN must be one of")


@in_a_process
def test_a_database_without_tables_is_said_in_a_sentence(run, token, tmp_path):
    result = run(
        token,
        "ana",
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=str(tmp_path / "empty.sqlite3"),
    )

    assert (result.code, result.output) == (1, "")
    assert "The database cannot be used: no such table" in result.errors
    assert "manage.py migrate" in result.errors


# Whatever form it comes in

BOM = "\ufeff"


@pytest.fixture(params=BUILT_IN)
def exported(request, garmin, account):
    """A session of the account, and the engine that wrote it."""
    return garmin.issue_session(account, engine=request.param), request.param


@pytest.mark.parametrize(
    "form",
    [
        lambda text: f"{BOM}{text}",
        lambda text: f"\n{BOM}{text}\r\n",
        str.encode,
        lambda text: f"{BOM}{text}".encode(),
        lambda text: bytearray(text.encode()),
    ],
    ids=["byte order mark", "byte order mark in between", "bytes", "both", "bytearray"],
)
def test_a_byte_order_mark_and_bytes_are_taken(user, exported, form):
    text, engine = exported

    import_session(user, form(text), engine=engine)

    assert state_of(user).session_data.decrypt() == text


@needs_garminconnect
def test_the_dict_of_a_session_that_is_json_is_taken(user, garmin, account):
    text = garmin.issue_session(account, engine="garminconnect")

    import_session(user, json.loads(text), engine="garminconnect")

    assert state_of(user).session_data.decrypt() == text


@pytest.mark.parametrize("engine", BUILT_IN)
@pytest.mark.parametrize(
    "given",
    [
        *(None, 5, True, object(), io.StringIO("text"), Path(".garth")),
        *(".garth", "~/.garth", b"\xff\xfe", b"", {}, [], [[]], {"a": object()}, {"a": {1, 2}}),
        *({"di_token": 5}, [{}, {}], ("a", "b"), "\ud800", BOM, '{"di_token": "\ud800"}'),
    ],
    ids=map(str, itertools.count()),
)
def test_what_is_no_session_is_refused_in_one_sentence(user, engine, given):
    with pytest.raises(SessionUnreadable, match=r"^[A-Z].+\.$|print"):
        import_session(user, given, engine=engine)

    assert nothing_stored()


def test_a_path_in_place_of_a_session_is_told_what_takes_it(user, folder):
    with pytest.raises(SessionUnreadable, match=r"import_session_folder\(\)"):
        import_session(user, folder)


def test_a_list_that_holds_itself_is_refused(user):
    given = []
    given.append(given)

    with pytest.raises(SessionUnreadable):
        import_session(user, given)


@pytest.mark.parametrize("form", [str, lambda path: f"{path}/", os.fsencode])
def test_a_folder_may_be_named_as_text(user, folder, form):
    import_session_folder(user, form(folder), engine="garth")

    assert state_of(user).status == Status.ACTIVE


def test_a_folder_may_be_in_the_home(user, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))

    import_session_folder(user, "~/garth", engine="garth")

    assert state_of(user).status == Status.ACTIVE


@pytest.mark.parametrize("engine", BUILT_IN)
@pytest.mark.parametrize(
    "path",
    [None, 5, "", "\0", "\ud800", "~no-such-user/.garth", ["a"], "x" * 5000],
    ids=map(str, itertools.count()),
)
def test_what_is_no_folder_is_refused_in_one_sentence(user, engine, path):
    with pytest.raises(SessionUnreadable, match=r"(?s)^.+[.?]$"):
        import_session_folder(user, path, engine=engine)

    assert nothing_stored()


def test_files_may_begin_with_a_byte_order_mark(user, folder):
    for name in ("oauth1_token.json", "oauth2_token.json"):
        (folder / name).write_text(BOM + (folder / name).read_text(), encoding="utf-8")

    import_session_folder(user, folder, engine="garth")

    assert state_of(user).status == Status.ACTIVE


@needs_garminconnect
def test_a_file_of_garminconnect_may_begin_with_a_byte_order_mark(user, garmin, account, tmp_path):
    text = garmin.issue_session(account, engine="garminconnect")
    (tmp_path / "garmin_tokens.json").write_text(BOM + text, encoding="utf-8")

    import_session_folder(user, tmp_path, engine="garminconnect")

    assert state_of(user).session_data.decrypt() == text


def test_a_byte_order_mark_on_standard_input_is_taken(call, user, token):
    assert call(BOM + token, "ana").code == 0


def test_without_standard_input_the_command_says_so(user, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # As after <&- in a shell.

    with pytest.raises(CommandError, match="Standard input is closed"):
        call_command("import_garmin_session", "ana")
