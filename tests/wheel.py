"""Build the packages and compare what is in them: ``python -m tests.wheel``.

The wheel holds the files that a list names, the sdist all that a clone has, so that its tests run,
and PyPI can show both. After a change of files that is meant, write the list anew:
``python -m tests.wheel --write``.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("wheel_contents.txt")
# What no clone has: a package must not come to depend on it.
IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]


def build(folder: Path) -> Path:
    """Build the wheel by way of the sdist, so that nothing that lies about gets in.

    From a copy: two builds at once in one folder, as tests run, are in each other's way.

    Returns:
        The wheel. The sdist is beside it.
    """
    with tempfile.TemporaryDirectory() as copy:
        left_out = shutil.ignore_patterns(".git", *IGNORED)
        shutil.copytree(ROOT, copy, ignore=left_out, dirs_exist_ok=True)
        installer = ["--installer", "uv"] if shutil.which("uv") else []
        _run("build", *installer, "--outdir", str(folder), copy)
        (sdist,) = folder.glob("*.tar.gz")
        missing = _files(Path(copy)) - _contents_of_sdist(sdist)
    if missing:
        raise SystemExit(f"missing from the sdist (MANIFEST.in): {', '.join(sorted(missing))}")
    return next(folder.glob("*.whl"))


def contents(wheel: Path) -> list[str]:
    """Return the names of the app's files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if name.startswith("garmin_auth/"))


def _contents_of_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def _files(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    # The build itself leaves its egg-info.
    return {str(path.relative_to(folder)) for path in files if ".egg-info" not in str(path)}


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = contents(build(Path(folder)))
        _run("twine", "check", "--strict", *map(str, Path(folder).iterdir()))
    if "--write" in sys.argv:
        LIST.write_text("\n".join(found) + "\n")
        return 0
    listed = LIST.read_text().split()
    for name in sorted(set(listed) - set(found)):
        print(f"missing from the wheel: {name}")
    for name in sorted(set(found) - set(listed)):
        print(f"in the wheel, but not in {LIST.name}: {name}")
    if found == listed:
        print(f"The wheel holds the {len(found)} files that {LIST.name} lists.")
    return found != listed


if __name__ == "__main__":
    sys.exit(main())
