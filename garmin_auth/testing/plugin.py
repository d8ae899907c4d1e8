"""The pytest plugin: a `garmin` fixture that needs no configuration.

If the package is installed, every pytest run imports this module, so the import must be fast: the
simulator and Django are only imported when the fixture is used.
"""

import os
import sys

import pytest


@pytest.fixture(scope="session")
def garmin_simulator():
    """One simulator for the whole test session (with pytest-xdist, one per worker)."""
    from garmin_auth.testing import INSTALL

    try:
        from garmin_auth.testing import GarminSimulator
    except ImportError as error:
        if error.name not in {"trustme", "oauthlib"}:
            raise
        pytest.fail(f"The garmin fixture needs the extra [testing]: {INSTALL}", pytrace=False)
    with GarminSimulator() as simulator:
        yield simulator


@pytest.fixture
def garmin(request, garmin_simulator, monkeypatch):
    """A freshly reset `GarminSimulator`, with the test's Django settings pointed at it."""
    from garmin_auth.testing.pauses import pauses

    garmin_simulator.reset()
    # With pytest's fixture, so that all changes of a test are undone in the right order.
    for pause in pauses():
        monkeypatch.setattr(pause, 0.0)
    if not _django_is_configured():
        yield garmin_simulator
    elif request.config.pluginmanager.hasplugin("django"):
        # With pytest-django's fixture, because a second way to override settings could be undone
        # in the wrong order when the test uses `settings` too.
        settings = request.getfixturevalue("settings")
        for name, value in garmin_simulator.settings.items():
            setattr(settings, name, value)
        yield garmin_simulator
    else:
        from django.test import override_settings

        with override_settings(**garmin_simulator.settings):
            yield garmin_simulator


def _django_is_configured() -> bool:
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return True
    conf = sys.modules.get("django.conf")
    return conf is not None and conf.settings.configured
