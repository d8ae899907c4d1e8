"""The Garmin simulator: a real server to test a site against, with unmodified libraries.

`GarminSimulator` runs in this process; `RemoteGarminSimulator` controls one in another process;
`GarminTestMixin` gives one to a Django `TestCase`. All are imported on first use, because every
pytest run imports this package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .control import RemoteGarminSimulator
    from .simulator import GarminSimulator
    from .testcase import GarminTestMixin

__all__ = ["GarminSimulator", "GarminTestMixin", "RemoteGarminSimulator"]

INSTALL = 'python -m pip install "django-garmin-auth[testing]"'


def __getattr__(name: str):
    if name == "RemoteGarminSimulator":
        from .control import RemoteGarminSimulator

        return RemoteGarminSimulator
    if name == "GarminTestMixin":
        from .testcase import GarminTestMixin

        return GarminTestMixin
    if name == "GarminSimulator":
        try:
            from .simulator import GarminSimulator
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in {"trustme", "oauthlib"}:
                raise
            raise ImportError(
                f"The Garmin simulator needs {error.name}: {INSTALL}", name=error.name
            ) from None
        return GarminSimulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
