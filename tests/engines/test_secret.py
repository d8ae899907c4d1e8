"""A password or a code on its way: shown by nothing but ``reveal()``."""

import copy
import json
import pickle
import traceback

import pytest

from garmin_auth.engines.secret import Secret
from garmin_auth.engines.tracebacks import hide_frames, places_of
from garmin_auth.exceptions import GarminUnavailable

TEXT = "correct horse"


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda x: f"{x!r:>20}", ascii])
def test_nothing_shows_it(show):
    assert TEXT not in show(Secret(TEXT))
    assert Secret(TEXT).reveal() == TEXT


def test_a_pickle_leaves_it_behind_and_says_so():
    data = pickle.dumps(Secret(TEXT))

    assert TEXT.encode() not in data
    with pytest.raises(ValueError, match="loses its text"):
        pickle.loads(data).reveal()


def test_a_copy_in_the_process_keeps_it():
    assert copy.deepcopy(Secret(TEXT)).reveal() == copy.copy(Secret(TEXT)).reveal() == TEXT


def test_a_secret_of_a_secret_is_the_same():
    assert Secret(Secret(TEXT)) == Secret(TEXT)


def test_it_is_no_json():
    with pytest.raises(TypeError):
        json.dumps(Secret(TEXT))


@pytest.mark.parametrize("value", [None, b"bytes", 123456])
def test_what_is_no_text_is_the_callers_mistake(value):
    with pytest.raises(TypeError, match="Expected a string"):
        Secret(value)


# The frames of an engine


def inside(error):
    password = TEXT
    if password:
        raise error


@pytest.mark.parametrize("error", [KeyError("a bug"), GarminUnavailable("a fault"), SystemExit(1)])
def test_whatever_is_raised_the_frames_inside_are_hidden(error):
    with pytest.raises(type(error)) as caught:
        hide_frames(lambda: inside(error))

    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert "inside" not in [frame.f_code.co_name for frame in frames]
    assert not [frame for frame in frames if TEXT in map(str, frame.f_locals.values())]


def test_of_a_bug_the_place_is_told():
    with pytest.raises(KeyError) as caught:
        hide_frames(lambda: hide_frames(lambda: inside(KeyError("a bug"))))

    assert any(place.endswith("in inside") for place in places_of(caught.value))
    assert TEXT not in "".join(traceback.format_exception(caught.value))
