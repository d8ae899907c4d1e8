"""A race: 8 processes want one expired connection whose refresh token works only once.

Each side is used as its own documentation says, unpatched, and speaks to the same simulator, which
takes 0.2 s to answer. Each process calls once, and repeats nothing by itself. The figures are sums
of 3 rounds, each with a connection of its own. It is lost if afterwards, with Garmin well again and
the access token expired once more, two fresh processes in turn get no session with what is stored.
No side has the user's password, which a site of many users does not keep; with it,
python-garminconnect and garmin-auth would log in anew. garth is another case, as its token does not
rotate. The authors of garth and of garmin-auth's Python package have deprecated them.

``python -m benchmarks.race`` prints the table of README.md from results.json.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.stage import PASSWORD, ROOT, Stage
from tests.services import BROKERS, why_not_broker, why_not_garminconnect
from tests.services import why_not as why_no_database

DATABASES = ("postgresql", "sqlite")
LATENCY = 0.2  # seconds
TTL = 10  # seconds; of the lock in Redis
NOTES = """
On SQLite only this app is measured, since no other side depends on it, unless there is no
PostgreSQL. A killed holder keeps others waiting for the 10 s of the lock in Redis, and for the 20 s
of this app's lease, which must outlast its deadline for a refresh, 15 s. This app's callers share
one failed refresh rather than ask again each; their next use asks. No side can save a connection
whose new token went to a process that died.
"""

# garmin-auth's module has the name of this app's, so it is not installed beside it.
PEER = ("garmin-auth==0.4.1", "psycopg2-binary==2.9.13", "ua-generator==2.1.7")
PEER_PATH = ROOT / "build" / "race" / "{}.{}".format(*sys.version_info)
# What would tell the libraries of other tokens than those of the race.
FOREIGN = ("GARMINTOKENS", "GARMIN_EMAIL", "GARMIN_PASSWORD", "GARTH_HOME", "GARTH_TOKEN")


@dataclass(frozen=True)
class Side:
    """One way to share a connection.

    Args:
        name: the class in racer.py.
        label: what readers are told that it is.
        package: the distribution whose version is named.
        engine: in whose format its session is issued.
        step: what the simulator calls its refresh.
        path: what it imports from, besides what is installed.
    """

    name: str
    label: str
    package: str = "garminconnect"
    engine: str = "garminconnect"
    step: str = "di_refresh"
    path: Path | None = None

    @property
    def version(self) -> str:
        if self.path == PEER_PATH:
            found = next(metadata.distributions(name=self.package, path=[str(PEER_PATH)]))
            return found.version
        return metadata.version(self.package)


THIS_APP = Side("ThisApp", "this app", "django-garmin-auth", path=ROOT)
GARMIN_AUTH = (
    Side("GarminAuthFile", "garmin-auth {}, its files", "garmin-auth", path=PEER_PATH),
    Side("GarminAuthDatabase", "garmin-auth {}, its table", "garmin-auth", path=PEER_PATH),
)
REDIS_LOCK = Side(
    "RedisLock", f"python-garminconnect under a Redis lock of {TTL} s (redis-py {{}})", "redis"
)
SIDES = (
    THIS_APP,
    Side("GarminConnectFile", "python-garminconnect {}, a shared file"),
    *GARMIN_AUTH,
    REDIS_LOCK,
    Side("GarthFolder", "garth {}, a shared folder", "garth", "garth", "exchange"),
)


@dataclass(frozen=True)
class Scenario:
    """What happens to the first refresh.

    Args:
        name: what readers are told.
        fault, options, times: the simulator's fault, "" if there is none.
        kill: whether its process is killed as the others come.
        survivable: whether the connection can be saved at all.
    """

    name: str
    fault: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    times: int | None = 1
    kill: bool = False
    survivable: bool = True


SCENARIOS = (
    Scenario("no fault"),
    Scenario("answer after 12 s", "late", {"seconds": 12}),
    Scenario("killed before rotation", "stall", {"seconds": 600}, kill=True),
    Scenario("killed after rotation", "late", {"seconds": 600}, kill=True, survivable=False),
    Scenario("one 503", "status", {"status": 503}),
    Scenario("503 to all", "status", {"status": 503}, times=None),
)
# With --quick, besides the race in which nothing fails; no lock or lease has to end.
QUICK = {("answer after 12 s", "ThisApp"), ("killed before rotation", "GarminConnectFile")}


def why_not() -> str:
    """Return why this cannot be measured here, "" if it can."""
    return why_not_garminconnect()


def install() -> None:
    """Install garmin-auth into a folder of its own, without what it needs, which is here already.

    If that fails, it says why, and the race is run without garmin-auth.
    """
    if not PEER_PATH.exists():
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", PEER_PATH]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *PEER], check=False)


def measure(stage: Stage) -> Iterator[Figure]:
    rounds, number = stage.size(3, 1), stage.size(8, 2)
    names = (f"race {n}" for n in itertools.count())
    ours: list[Figure] = []
    with ExitStack() as running:
        racers = {
            side: running.enter_context(racer(stage, side))
            for side in SIDES
            if takes_part(side, stage)
        }
        for scenario in SCENARIOS:
            for side, order in racers.items():
                if stage.quick and scenario.fault and (scenario.name, side.name) not in QUICK:
                    continue
                outcomes = [
                    run(stage, scenario, side, order, next(names), number) for _ in range(rounds)
                ]
                figure = figure_of(scenario, side, number, outcomes)
                ours += [figure] if side == THIS_APP else []
                yield figure
    yield from goals(ours, rounds)


def takes_part(side: Side, stage: Stage) -> bool:
    """Tell whether a side can be measured here, and print why if it cannot."""
    if stage.database == "sqlite" and side != THIS_APP and not why_no_database("postgresql"):
        return False
    reason = ""
    if side == REDIS_LOCK:
        reason = why_not_broker("redis")
    elif side in GARMIN_AUTH and not PEER_PATH.exists():
        reason = f"it is not in {PEER_PATH}, where a run without --quick installs it"
    elif side.name == "GarminAuthDatabase" and stage.database != "postgresql":
        reason = "it needs PostgreSQL"
    if reason:
        print(f"LEFT OUT  race of {side.name}: {reason}", file=sys.stderr, flush=True)
    return not reason


@contextmanager
def racer(stage: Stage, side: Side) -> Iterator[Any]:
    """Run the process that forks a side's callers, and yield a function that gives it orders."""
    from django.db import connection

    database = connection.settings_dict
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {
            "HOME": home,
            "PYTHONPATH": str(side.path or ""),
            "RACE_DATABASE_URL": "postgresql://{USER}@{HOST}:{PORT}/{NAME}".format(**database)
            if stage.database == "postgresql"
            else "",
            "RACE_REDIS_URL": BROKERS["redis"],
            "RACE_NAME": f"garmin_auth_race_{os.getpid()}",
            "RACE_TTL": str(stage.size(TTL, 1)),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("racer.py")), side.name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin
        assert process.stdout

        def read() -> Any:
            return json.loads(process.stdout.readline())  # type: ignore[union-attr]

        def order(*words: Any) -> Any:
            process.stdin.write(json.dumps(words) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return read()

        assert read() == "ready"
        try:
            yield order
        finally:
            process.stdin.close()
            process.wait(60)


@dataclass(frozen=True)
class Outcome:
    """Of one round: how many failed, were asked and were lost, and the longest call in seconds."""

    failed: int
    asked: int
    lost: int
    longest: float


def run(
    stage: Stage, scenario: Scenario, side: Side, order: Any, name: str, number: int
) -> Outcome:
    """Let so many callers race for a new connection."""
    garmin, email = stage.garmin, f"{name.replace(' ', '-')}@garmin.example"
    garmin.reset()
    garmin.add_account(email, PASSWORD)
    order("store", name, garmin.issue_session(email, side.engine, access_expired=True))
    garmin.latency = LATENCY
    if scenario.fault:
        options = scenario.options
        if stage.quick and not scenario.kill and "seconds" in options:
            options = {"seconds": 1.5}
        garmin.fail(side.step, scenario.fault, scenario.times, **options)
    victims = []
    if scenario.kill:
        victims = order("start", name, 1)
        wait_for_fault(garmin)
    pids = order("start", name, number - len(victims))
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    calls = order("wait", pids)
    order("wait", victims)
    asked = garmin.counts[side.step]

    garmin.heal()
    garmin.latency = 0
    if side.engine != "garth":  # It does not refresh a token that Garmin refuses, expired or not.
        garmin.expire_access_tokens(email)
    fresh = (order("wait", order("start", name, 1))[0] for _ in range(2))
    lost = not any(worked(call) for call in fresh)
    return Outcome(
        failed=sum(not worked(call) for call in calls),
        asked=asked,
        lost=int(lost),
        longest=max(call["seconds"] for call in calls if call),
    )


def worked(call: dict[str, Any] | None) -> bool:
    return call is not None and not call["error"]


def wait_for_fault(garmin: Any) -> None:
    patience = time.monotonic() + 30
    while not any(entry["fault"] for entry in garmin.log):
        assert time.monotonic() < patience, "the first caller does not ask Garmin"
        time.sleep(0.02)


def figure_of(scenario: Scenario, side: Side, number: int, outcomes: list[Outcome]) -> Figure:
    """Return the sums of all rounds."""
    failed, asked = sum(each.failed for each in outcomes), sum(each.asked for each in outcomes)
    lost, callers = sum(each.lost for each in outcomes), (number - scenario.kill) * len(outcomes)
    longest = max(each.longest for each in outcomes)
    return Figure(
        f"{scenario.name}: {side.label.format(side.version)}",
        lost,
        unit=f"of {len(outcomes)} lost",
        at_most=0 if side == THIS_APP and scenario.survivable else None,
        note=f"{failed} of {callers} callers failed, {asked} exchanges, "
        f"longest call {longest:.1f} s",
        counts={"failed": failed, "exchanges": asked, "lost": lost},
    )


def goals(ours: list[Figure], rounds: int) -> Iterator[Figure]:
    """Yield what this app must do where Garmin answers at last: one exchange, and nobody fails."""
    counts = {figure.what.partition(":")[0]: figure.counts for figure in ours}
    answered = [s.name for s in SCENARIOS if s.survivable and s.fault != "status"]
    failed = sum(counts[name]["failed"] for name in answered if name in counts)
    yield Figure(
        "this app's callers that failed where Garmin answers at last", failed, "", at_most=0
    )
    exchanges = counts[SCENARIOS[0].name]["exchanges"] / rounds
    yield Figure("this app's exchanges for a connection, no fault", exchanges, "", at_most=1)


def table(figures: Iterable[Figure]) -> str:
    """Return, as a Markdown table, a row for each side and a column for each scenario."""
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        if figure.counts:
            scenario, _, side = figure.what.partition(": ")
            cells.setdefault(side, {})[scenario] = " · ".join(map(str, figure.counts.values()))
    names = [scenario.name for scenario in SCENARIOS]
    rows = [["", *names], ["---"] * (len(names) + 1)]
    rows += [[side, *(row.get(name, "") for name in names)] for side, row in cells.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    results = json.loads(Path(__file__).with_name("results.json").read_text())
    print(table(Figure(**each) for each in results["benchmarks"]["race"]["postgresql"]["figures"]))
