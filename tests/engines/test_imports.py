"""An engine's library is imported wherever the site runs; where it cannot be, the app says so."""

import json

import pytest
from django.core.exceptions import ImproperlyConfigured

from garmin_auth.engines import get_engine, get_stored_engine
from garmin_auth.exceptions import SessionUnreadable

# As in a container with an arbitrary user ID: no HOME, and no entry in the password file.
NOBODY = """
import json, os, pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
del os.environ["HOME"]
import django
django.setup()
from garmin_auth.engines import get_engine
engine = get_engine("garth")
print(json.dumps([engine.name, os.environ.get("HOME")]))
"""


@pytest.mark.django_db(transaction=True)
def test_garth_is_imported_without_a_home(start_python):
    process = start_python("-c", NOBODY, new_interpreter=True, HOME="/nonexistent")
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    assert json.loads(output) == ["garth", None]


@pytest.fixture
def broken(settings, tmp_path, monkeypatch):
    """An engine whose module raises whatever its library does."""
    (tmp_path / "broken_engine.py").write_text("raise RuntimeError('no home')")
    monkeypatch.syspath_prepend(tmp_path)
    settings.GARMIN_AUTH_ENGINES = {"broken": "broken_engine.Engine"}


def test_an_import_that_fails_for_any_reason_is_a_broken_set_up(broken):
    with pytest.raises(ImproperlyConfigured, match="'broken' cannot be imported: no home"):
        get_engine("broken")


def test_a_stored_session_of_an_engine_that_cannot_be_imported_is_unreadable(broken):
    with pytest.raises(SessionUnreadable, match="cannot be imported"):
        get_stored_engine("broken", "garmin.com")


def test_an_engine_whose_name_fits_no_row_is_a_broken_set_up(settings, tmp_path, monkeypatch):
    source = "class Engine:\n    name = 'm' * 51\n\n    def __init__(self, domain): ..."
    (tmp_path / "long_engine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    settings.GARMIN_AUTH_ENGINES = {"long": "long_engine.Engine"}

    with pytest.raises(ImproperlyConfigured, match="name must have 1 to 50 characters"):
        get_engine("long")
