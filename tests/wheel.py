"""Build the wheel and compare what is in it with a list: ``python -m tests.wheel``.

After a change of files that is meant, write the list anew: ``python -m tests.wheel --write``.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("wheel_contents.txt")


def build(folder: Path) -> Path:
    """Build the wheel by way of the sdist, so that nothing that lies about gets in.

    From a copy: two builds at once in one folder, as tests run, are in each other's way.
    """
    left_out = shutil.ignore_patterns(".*", "build", "dist", "docs", "tests", "*.egg-info")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(ROOT, copy, ignore=left_out, dirs_exist_ok=True)
        command = [sys.executable, "-m", "build", "--outdir", str(folder), copy]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return next(folder.glob("*.whl"))


def contents(wheel: Path) -> list[str]:
    """Return the names of the app's files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if name.startswith("garmin_auth/"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = contents(build(Path(folder)))
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
