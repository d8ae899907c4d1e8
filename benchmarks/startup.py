"""Start-up: CPU time of ``manage.py check`` with the app, compared with the same site without it.

Both sites have Django's admin and an app whose models import ``fernet_fields``. One of them also
has ``garmin_auth`` and its URLs. They run in turn, and user and system time are counted. A round
counts the least of three runs, because other work on the machine only adds to the time.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.stage import ROOT, Stage, ratios

DATABASES = ("sqlite",)
NOTES = """
The Intel machine misses the goal, and its rounds differ by half; so does an AMD EPYC (1.19). Of the
60 to 80 ms that the app takes there, 40 ms are the imports of its own modules (``-X importtime``),
a third of them the code that 20 dataclasses generate. The rest is mostly its system checks, which
ask for the versions of the engines' packages, and import ``importlib.metadata`` and ``packaging``
for that.
"""

SETTINGS = """
from tests.settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app not in ("garmin_auth", "tests")] + {apps!r}
ROOT_URLCONF = "{name}_urls"
CACHES = {{"default": {{"BACKEND": "django.core.cache.backends.db.DatabaseCache"}}}}
"""
URLS = """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path("admin/", admin.site.urls)]
urlpatterns += [path("garmin/", include(name)) for name in {urls}]
"""
SITES = {
    "with": {"apps": ["vault", "garmin_auth"], "urls": ["garmin_auth.urls"]},
    "without": {"apps": ["vault"], "urls": []},
}


def measure(stage: Stage) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        vault = Path(folder, "vault")
        vault.mkdir()
        Path(vault, "__init__.py").touch()
        Path(vault, "models.py").write_text("from fernet_fields import EncryptedTextField\n")
        for name, site in SITES.items():
            Path(folder, f"{name}_settings.py").write_text(SETTINGS.format(name=name, **site))
            Path(folder, f"{name}_urls.py").write_text(URLS.format(**site))
        seconds: dict[str, list[float]] = {name: [] for name in SITES}
        for name in SITES:
            check(name, folder)  # To write byte code, as pip does, and to cache files.
        for number in range(stage.size(20, 1)):
            least = dict.fromkeys(SITES, float("inf"))
            for turn in range(stage.size(3, 1)):
                for name in list(SITES)[:: -1 if (number + turn) % 2 else 1]:
                    least[name] = min(least[name], check(name, folder))
            for name in SITES:
                seconds[name].append(least[name])
    ours, theirs = (sorted(seconds[name])[len(seconds[name]) // 2] for name in SITES)
    yield Figure.of(
        "with the app, of the CPU time without",
        ratios(seconds["with"], seconds["without"]),
        at_most=1.15,
        note=f"{ours * 1000:.0f} ms of {theirs * 1000:.0f} ms",
    )


def check(site: str, folder: str) -> float:
    """Run ``manage.py check`` of this site, and return the CPU seconds that it took."""
    # As installed: pip writes byte code, whatever the environment says. Like most sites, without
    # GARMIN_AUTH_CA_BUNDLE, which a system check would read.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("GARMIN_SIMULATOR_")
    }
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "check"],
        env={
            **environment,
            "PYTHONPYCACHEPREFIX": f"{folder}/byte_code",
            "DJANGO_SETTINGS_MODULE": f"{site}_settings",
            "PYTHONPATH": f"{folder}:{ROOT}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"manage.py check of the site {site} the app has failed"
    return usage.ru_utime + usage.ru_stime
