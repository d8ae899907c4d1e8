"""The tutorial is followed literally: its files, its commands, its pages, in a new folder."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from html import unescape
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from tests.browser import kept_port
from tests.conftest import BUILT_IN, ROOT
from tests.fork_server import python_command
from tests.markdown import Block, steps

TUTORIAL = ROOT / "docs" / "tutorial.md"
PATIENCE = 300  # seconds


def environment():
    """What somebody has who has activated the virtual environment, and nothing of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = ("DJANGO_", "GARMIN_", "COVERAGE_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}


def alike(said, promised):
    """Tell whether a line is what the page promises, but for its numbers."""
    return _without_numbers(said) == _without_numbers(promised)


def _without_numbers(line):
    return re.sub(r"\d+([.,]\d+)*", "#", " ".join(line.split()))


class Page(HTMLParser):
    """The text, links and forms of a page."""

    def __init__(self, source):
        super().__init__()
        self.links, self.forms, self.words, self._href = {}, [], [], None
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.forms.append((attrs.get("action"), {}))
        elif tag == "input" and self.forms and attrs.get("name"):
            self.forms[-1][1][attrs["name"]] = attrs.get("value") or ""
        elif tag == "a":
            self._href = attrs.get("href")

    def handle_endtag(self, tag):
        if tag == "a":
            self._href = None

    def handle_data(self, data):
        self.words.append(data)
        if self._href and data.strip():
            self.links[data.strip()] = unescape(self._href)


class Browser:
    """Opens pages, follows links, and submits forms with their hidden fields, as a browser does."""

    def __init__(self, site):
        self.url = site
        cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def open(self, where, data=None):
        self.url = urllib.parse.urljoin(self.url, where)
        request = urllib.request.Request(self.url, data=data, headers={"Referer": self.url})
        with self._opener.open(request, timeout=PATIENCE) as response:
            self.url = response.url
            self.page = Page(response.read().decode())
            again = response.headers.get("Refresh")
        if again:  # A login in progress.
            time.sleep(float(again.partition(";")[0]))
            self.open(self.url)

    def click(self, words):
        self.open(self.page.links[words])

    def submit(self, fields):
        action, hidden = next(form for form in self.page.forms if set(fields) <= set(form[1]))
        self.open(action or self.url, urllib.parse.urlencode({**hidden, **fields}).encode())


class Reader:
    """Somebody who does what the tutorial says."""

    def __init__(self, folder, port, engine, commands):
        self.folder, self.port, self.engine, self.commands = folder, port, engine, commands
        self.terminals = {}
        self.browser = Browser(f"http://127.0.0.1:{self.port}/")

    def follow(self, step):
        if isinstance(step, Block):
            self.do(step)
        elif step.verb == "see":
            assert step.rest in self.browser.page.text, f"{step}: {self.browser.page.text}"
        elif step.verb == "submit":
            fields = {k: self.code() if v == "CODE" else v for k, v in step.fields.items()}
            self.browser.submit(fields)
        else:
            getattr(self.browser, step.verb)(step.rest)

    def do(self, block):
        if "not run" in block.marks:
            return
        if block.title:
            block.write_to(self.folder)
            if "settings.py" in block.title:  # The one engine that the reader has installed.
                with (self.folder / "mysite" / "settings.py").open("a") as file:
                    file.write(f'GARMIN_AUTH_ENGINE = "{self.engine}"\n')
            return
        assert block.language == "console", block
        terminal = block.marks.get("terminal")
        *commands, last = block.commands
        for command, promised in commands if terminal else block.commands:
            wanted = int(block.marks.get("exits", 0)) if (command, promised) == last else 0
            self.run(command, promised, wanted)
        if terminal:
            self.start(terminal, last[0])

    def run(self, command, promised, wanted):
        ours = environment()
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env={**ours, "PATH": f"{self.commands}{os.pathsep}{ours['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == wanted, f"{command}: {said}"
        for line in promised:
            if self.engine == "garminconnect":  # Each engine has its own words for a dead session.
                line = line.replace("session's token at the exchange", "session's refresh token")
            assert any(alike(found, line) for found in said.splitlines()), f"{line!r} in {said}"

    def start(self, terminal, command):
        """Run a command in a terminal of its own, and wait until it is ready."""
        if "runserver" in command:  # The one thing that is not literal: port 8000 may be in use.
            command += f" --noreload {self.port}"
        log = self.folder / f"{terminal}.log"
        with log.open("w") as output:
            self.terminals[terminal] = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = self.answers if "runserver" in command else (self.folder / "simulator.json").exists
        end = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < end, log.read_text()
            assert self.terminals[terminal].poll() is None, log.read_text()
            time.sleep(0.1)

    def answers(self):
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def code(self):
        """Read the code off the simulator's terminal."""
        return re.findall(r"Code for \S+: (\d+)", (self.folder / "simulator.log").read_text())[-1]

    def close(self):
        for process in self.terminals.values():
            process.send_signal(signal.SIGINT)
        for process in self.terminals.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(params=BUILT_IN)
def reader(request, tmp_path, tmp_path_factory, fork_server):
    commands = tmp_path_factory.mktemp("commands")
    with kept_port() as port, python_command(fork_server, commands):
        reader = Reader(tmp_path, port, request.param, commands)
        yield reader
        reader.close()


def test_the_tutorial_can_be_followed_literally(reader):
    for step in steps(TUTORIAL):
        reader.follow(step)
    assert set(reader.terminals) == {"simulator", "site"}


def test_the_tutorial_goes_by_a_browser_too():
    verbs = [step.verb for step in steps(TUTORIAL) if not isinstance(step, Block)]
    assert verbs.count("submit") == 3
