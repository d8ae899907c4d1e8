"""The Garmin simulator: a real server to test a site against, with the libraries unpatched.

`GarminSimulator` runs it in this process, `RemoteGarminSimulator` steers one that runs in another.
Both are imported when first used, because this package is imported by every pytest run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .control import RemoteGarminSimulator
    from .simulator import GarminSimulator

__all__ = ["GarminSimulator", "RemoteGarminSimulator"]

INSTALL = 'pip install "django-garmin-auth[testing]"'


def __getattr__(name: str):
    if name == "RemoteGarminSimulator":
        from .control import RemoteGarminSimulator

        return RemoteGarminSimulator
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
