"""The alarms, the dashboard and the table of metrics name what is printed, and no more."""

import json
import re

import pytest
import yaml

from garmin_auth.checking.openmetrics import families_of_metrics, families_of_report
from garmin_auth.health import Report
from garmin_auth.metrics import collect_metrics
from tests.conftest import ROOT
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
