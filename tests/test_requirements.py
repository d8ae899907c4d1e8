import sys
from importlib import metadata

from garmin_auth.engines.requirements import installed_version


def test_the_version_of_whatever_is_installed_is_that_of_importlib_metadata():
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}

    assert {"Django", "django-fernet-fields", "garth", "djfernet-redux"} & names
    assert {name: installed_version(name) for name in names} == {
        name: metadata.version(name) for name in names
    }


def test_a_name_may_be_written_in_any_of_its_ways(tmp_path, monkeypatch):
    (tmp_path / "Some_thing-1.2.3.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    assert [installed_version(name) for name in ("some-thing", "Some.Thing", "some_thing")] == [
        "1.2.3"
    ] * 3


def test_the_first_on_the_path_is_what_would_be_imported(tmp_path, monkeypatch):
    for folder, version in (("first", "2"), ("second", "1")):
        (tmp_path / folder / f"thing-{version}.dist-info").mkdir(parents=True)
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    monkeypatch.setattr(sys, "path", [*sys.path, *folders])

    assert installed_version("thing") == "2"


def test_an_egg_is_found_too(tmp_path, monkeypatch):
    egg = tmp_path / "thing.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 3.1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    assert installed_version("thing") == "3.1"


def test_what_is_not_there_has_no_version():
    assert installed_version("there-is-no-such-thing") is None
