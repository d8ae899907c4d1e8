"""The alarms, the dashboard and the table of metrics name what is printed, and no more.

The line for the crontab keeps the file whole.
"""

import json
import os
import re
import subprocess

import pytest
import yaml
from django.core.management import call_command

from garmin_auth.checking.openmetrics import families_of_metrics, families_of_report
from garmin_auth.health import Report
from garmin_auth.metrics import collect_metrics
from tests.conftest import EMAIL, ROOT
from tests.rows import store

GUIDES = ROOT / "docs" / "how-to"
# What the command prints in place of a report.
OTHERS = {"garmin_auth_check_due_sessions": set(), "garmin_auth_check_enqueued_sessions": set()}


@pytest.fixture
def printed(user):
    """The labels of each metric that the command prints, by its name."""
    store(user)
    families = [*families_of_metrics(collect_metrics()), *families_of_report(Report())]
    return OTHERS | {name: set(samples[0][0]) for name, _help, samples in families}


def expressions():
    dashboard = json.loads((GUIDES / "garmin-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((GUIDES / "garmin-alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.django_db
def test_every_metric_is_in_the_table_with_its_labels_and_no_other(printed):
    text = (GUIDES / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(garmin_auth_\w+)` \|([^|]*)\|", text, re.M)

    assert {name: set(re.findall(r"\w+", labels)) for name, labels in rows} == printed


@pytest.mark.django_db
@pytest.mark.parametrize("expression", [*expressions()])
def test_an_expression_names_metrics_and_labels_that_there_are(printed, expression):
    names = set(re.findall(r"\bgarmin_auth_\w+", expression))
    by = re.findall(r"by \(([\w, ]+)\)", expression)
    labels = {label for each in by for label in each.split(", ")}
    matched = re.findall(r"(garmin_auth_\w+){(\w+)!?=", expression)

    assert names
    assert names <= printed.keys()
    assert all(label in printed[name] for name, label in matched)
    assert all(labels <= printed[name] for name in names)


def test_every_alarm_is_explained():
    text = (GUIDES / "monitoring.md").read_text()
    [group] = yaml.safe_load((GUIDES / "garmin-alerts.yml").read_text())["groups"]

    explained = re.findall(r"^\| `(Garmin\w+)` \|", text, re.M)
    assert explained == [rule["alert"] for rule in group["rules"]]


def rule(name):
    [group] = yaml.safe_load((GUIDES / "garmin-alerts.yml").read_text())["groups"]
    return next(each["expr"] for each in group["rules"] if each["alert"] == name)


def test_the_file_of_each_site_sets_off_the_alarm_when_it_is_old():
    text, expression = (GUIDES / "monitoring.md").read_text(), rule("GarminMetricsAreOld")
    files = set(re.findall(r"\bgarmin_auth\w*\.prom\b", text))
    pattern = re.search(r'time\(\) - node_textfile_mtime_seconds{file=~"(.*?)"}', expression)[1]

    assert len(files) > 1
    assert all(re.fullmatch(pattern, f"/srv/site/metrics/{file}") for file in files)


def test_an_age_of_several_sites_is_that_of_the_one_that_stands_still():
    ages = [each for each in expressions() if each.startswith("time() - ")]

    assert [each for each in ages if "max" in each] == []
    assert len(ages) > 3


def test_a_frozen_site_has_metrics_that_the_alarm_does_not_miss(capsys, settings):
    settings.GARMIN_AUTH_FROZEN = True
    with pytest.raises(SystemExit):
        call_command("check_garmin_sessions", "--format", "openmetrics")
    wanted = re.search(r" or (garmin_auth_\w+{.*?}) == 1\)", rule("GarminMetricsAreOld"))[1]

    assert f"\n{wanted} 1\n" in capsys.readouterr().out


@pytest.fixture
def crontab(tmp_path):
    """Run the line of the guide in a site whose command is a script, and return the file."""
    text = (GUIDES / "monitoring.md").read_text()
    line = re.search(r"^```cron\n(.*)\n```", text, re.M)[1].split(None, 5)[5]
    line = line.replace("/srv/site", str(tmp_path))
    for folder in ("metrics", "venv/bin"):
        (tmp_path / folder).mkdir(parents=True)

    def crontab(script):
        command = tmp_path / "venv/bin/python"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        subprocess.run(
            ["/bin/sh", "-c", line], env={**os.environ, "LINE": line}, timeout=60, check=False
        )
        [file] = (tmp_path / "metrics").iterdir()
        assert file.name == "garmin_auth.prom"
        return file.read_text()

    return crontab


def test_a_run_that_overlaps_a_longer_one_leaves_a_whole_file(crontab):
    later = "printf 'later 1\\nlater 2\\nlater 3\\n# EOF\\n'"
    both = f'if [ "$LATER" ]; then {later}; else LATER=1 /bin/sh -c "$LINE"; echo "# EOF"; fi'

    assert crontab(both) == "# EOF\n"


@pytest.mark.parametrize("fate", ["exit 1", "echo half; exit 1"], ids=["no text", "full disk"])
def test_a_run_without_a_whole_text_keeps_the_last_file(crontab, fate):
    before = crontab("echo '# EOF'; exit 4")

    assert before == crontab(fate) == "# EOF\n"


@pytest.mark.django_db(transaction=True)
def test_a_monitor_reads_the_report_of_a_run_that_exits_with_3(user, connect, garmin):
    text = (GUIDES / "cron.md").read_text()
    [code] = [each for each in re.findall(r"```python\n(.*?)```", text, re.S) if "json" in each]
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    names = {}
    exec(code, names)

    assert names["report"]["expired"] == 1
