"""The pytest plugin: a `garmin` fixture, with nothing to configure.

pytest imports this module in every run of an environment that has the package, so that it must
cost nothing and need nothing: the simulator and Django are imported when the fixture is used.
"""

import os
import sys

import pytest


@pytest.fixture(scope="session")
def garmin_simulator():
    """The session's one simulator (with pytest-xdist, each worker's), started on first use."""
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
def garmin(request, garmin_simulator):
    """A `GarminSimulator` as new, with the test's Django settings pointed at it."""
    garmin_simulator.reset()
    if not _django_is_configured():
        yield garmin_simulator
    elif request.config.pluginmanager.hasplugin("django"):
        # pytest-django's own fixture: a second way of overriding, undone in another order than
        # the test's use of `settings`, would leave one of the two behind.
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
