"""A forked process is what its interpreter would have been, for all that our tests look at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import CLOSED, python_command

STREAMS = """
import os, sys
found = []
for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
    if stream is None:
        found.append(None)
        continue
    assert stream is (sys.__stdin__, sys.__stdout__, sys.__stderr__)[number]
    assert stream.fileno() == number
    found.append((
        stream.encoding, stream.errors, stream.line_buffering, stream.write_through,
        type(stream.buffer).__name__, stream.isatty(),
    ))
with open(sys.argv[1], "w") as file:
    print(found, sys.argv, file=file)
"""
# What is left in the stream's buffer at the end goes to a pipe whose reader has gone.
LEFT = "import sys; sys.stdin.read(); print('too late')"


@pytest.fixture
def variables(tmp_path):
    return {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("shut", [(), (1,), (2,), (1, 2)])
@pytest.mark.parametrize(
    "streams",
    [
        {},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": ":replace"},
        {"PYTHONIOENCODING": "utf-8:surrogateescape", "PYTHONUNBUFFERED": "1"},
    ],
    ids=str,
)
def test_its_standard_streams_are_the_interpreters(
    fork_server, variables, tmp_path, streams, shut, terminal
):
    environment, told = {**variables, **streams}, tmp_path / "told"
    closed = {1: ">&-", 2: "2>&-"}
    redirections = " ".join(closed[number] for number in shut)
    ours, theirs = os.openpty() if terminal else os.pipe()
    given = {"stdout": theirs, "stderr": theirs}

    subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", STREAMS, told],
        env=environment,
        stdin=subprocess.PIPE,
        check=True,
        **given,
    )
    expected = told.read_text()
    for number, name in ((1, "stdout"), (2, "stderr")):
        if number in shut:
            given[name] = CLOSED
    process = fork_server.start(["-c", STREAMS, told], environment, **given)
    process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)

    assert (process.returncode, told.read_text()) == (0, expected)


def test_what_it_cannot_write_at_its_end_makes_its_exit_code(fork_server, variables):
    codes = []
    for start in (
        lambda pipe: subprocess.Popen(
            [sys.executable, "-c", LEFT],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        ),
        lambda pipe: fork_server.start(["-c", LEFT], variables, stdout=pipe),
    ):
        reader, writer = os.pipe()
        process = start(writer)
        os.close(reader)
        os.close(writer)
        _, errors = process.communicate("", timeout=60)
        assert "BrokenPipeError" in errors
        codes.append(process.returncode)

    assert codes == [120, 120]


ENDS = {
    "normally": "print('done')",
    "a code": "sys.exit(3)",
    "a sentence": "sys.exit('enough')",
    "an exception": "1 / 0",
    "atexit": "import atexit; atexit.register(print, 'at last')",
    "a thread": "import threading; threading.Timer(0.1, print, ['a thread']).start()",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_shell_cannot_tell_its_python_from_the_interpreter(fork_server, tmp_path, end):
    code = f"import sys; print(sys.argv, sys.stdin.read()); {end}"
    told = []
    with python_command(fork_server, tmp_path):
        for folder in (tmp_path, Path(sys.executable).parent):
            done = subprocess.run(
                f"cd /tmp && echo said | python -c \"{code}\" an 'argument of words'",
                shell=True,
                env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            last = done.stderr.splitlines()[-1:]
            told.append((done.returncode, done.stdout, last))

    assert told[0] == told[1]
