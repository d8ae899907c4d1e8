"""What the app logs, as an interface: docs/reference/logging.md says it, and the code does it."""

import ast
import logging
import re
from pathlib import Path

import pytest

from garmin_auth import signals
from garmin_auth.health import check_session
from tests.conftest import EMAIL, ROOT

APP = ROOT / "garmin_auth"
LEVELS = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
NAMES = [name for name, value in vars(signals).items() if isinstance(value, signals.Signal)]


def calls(path):
    """Each call of a logger in a file: where, its level, and its extra attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=level)):
                extra = {keyword.arg: keyword.value for keyword in node.keywords}.get("extra")
                keys = [key.value for key in extra.keys] if extra else []
                values = [ast.unparse(value) for value in extra.values] if extra else []
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield where, LEVELS[level], dict(zip(keys, values, strict=True))


LOGGED = [
    each
    for path in sorted(Path(APP).rglob("*.py"))
    if APP / "testing" not in path.parents
    for each in calls(path)
]


def in_code():
    for _where, level, attributes in LOGGED:
        event = attributes["event"]
        for name in NAMES if event == "NAMES[signal]" else [ast.literal_eval(event)]:
            yield name, (level, attributes.keys() - {"event"})


def in_docs():
    text = (ROOT / "docs/reference/logging.md").read_text()
    for row in re.findall(r"^\| (`.*) \|$", text, re.M):
        events, level, attributes, *_when = (cell.strip() for cell in row.split("|"))
        for event in re.findall(r"`(\w+)`", events):
            yield event, (level, set(re.findall(r"`(\w+)`", attributes)))


def test_every_record_has_its_event():
    assert len(LOGGED) > 10
    assert [where for where, _level, attributes in LOGGED if "event" not in attributes] == []


def test_every_event_is_in_the_reference_with_its_level_and_attributes_and_no_other():
    assert dict(in_docs()) == dict(in_code())


@pytest.mark.django_db(transaction=True)
def test_a_record_has_its_attributes(user, connect, garmin, caplog):
    caplog.set_level(logging.INFO, "garmin_auth")
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    check_session(user)

    (record,) = [each for each in caplog.records if each.name == "garmin_auth"]
    assert (record.event, record.user_pk) == ("session_expired", user.pk)
