"""The metrics, and the dashboard and alert rules that use them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from client.history import Build
from client.metrics import Exporter, _address
from client.stack import StackError
from client.status import (
    HostKeyAge,
    IdentityUse,
    KeyUse,
    Removal,
    Status,
    Unread,
    Visit,
)
from components.metrics.program.families import REMOVAL_KINDS
from tests.unit.conftest import ROOT
from tests.unit.test_client import shown

FOLDER = ROOT / "docs" / "metrics"
LOG = (
    "2026-11-27T05:00:00.123456789Z [janitor] by age: removed container job and 2 more, "
    "untagged image sha256:1; free 1.00 GB -> 2.00 GB\n"
    "2026-11-27T05:00:01.1Z [janitor] works again; commands that failed meanwhile: 1\n"
    "2026-11-27T05:01:00.2Z [janitor] the disk is nearly full: removed cache 1.2GB; "
    "free 1.00 GB -> 2.00 GB\n"
)


def full(**changes: Any) -> Status:
    """A status with something of everything."""
    values: dict[str, Any] = {
        "builds": [Build(1, 2.5, 4, 3, False, ref="a"), Build(2, 50.0, 2, 0, True, ref="b")],
        "containers": {"daemon": "running (healthy)", "guard": "exited"},
        "keys": [KeyUse("ada", "admin", "2027-01-31", 1, "", "SHA256:x", False)],
        "identities": [IdentityUse("main", "build", "2027-01-30", 0, "", "https://ci.example", {})],
        "connections": [Visit("2026-11-27T05:00:00Z", False, "ada", "SHA256:x", "192.0.2.7")],
        "visits": [Visit("2026-11-27T05:00:00Z", True, "-", "SHA256:y", "192.0.2.8")],
        "removals": Removal.parse(LOG),
        "host_keys": [HostKeyAge(1, True, 3)],
        **changes,
    }
    return shown(**values)


def samples(exporter: Exporter) -> dict[str, float]:
    """The value of each series, by its name and the values of its labels but the builder's."""
    found = {}
    for family in text_string_to_metric_families(exporter.metrics.page().decode()):
        for sample in family.samples:
            labels = [value for name, value in sample.labels.items() if name != "builder"]
            found[" ".join([sample.name, *labels])] = sample.value
    return found


def exported(*found: Status | Unread) -> dict[str, float]:
    exporter = Exporter(is_past_counted=True)
    exporter.take(list(found))
    return samples(exporter)


def test_once_all_that_the_builder_remembers_is_counted() -> None:
    values = exported(full())
    expected = {
        "builder_up": 1,
        "builder_builds_total ok": 1,
        "builder_builds_total failed": 1,
        "builder_build_duration_seconds_sum": 52.5,
        "builder_build_cached_steps_ratio_bucket 0.0": 1,
        "builder_build_cached_steps_ratio_count": 2,
        "builder_refused_logins_total": 1,
        "builder_janitor_removed_total age container": 3,
        "builder_janitor_removed_total age untagged image": 1,
        "builder_janitor_removed_total space cache": 1,
        "builder_sessions ada": 1,
        "builder_sessions main": 0,
        "builder_part_up daemon": 1,
        "builder_part_up guard": 0,
        "builder_host_key_age_seconds 1 true": 3 * 86400,
        "builder_key_expires_timestamp_seconds ada": 1801440000,
        "builder_key_expires_timestamp_seconds main": 1801353600,
        "builder_cache_limit_bytes": 8e9,
        "builder_disk_free_inodes": 5e5,
    }
    assert {name: values.get(name) for name in expected} == expected


def test_a_server_counts_what_happens_after_its_start_and_each_thing_once() -> None:
    exporter = Exporter(is_past_counted=False)
    visit = full().visits[0]
    later = [Build(3, 1.0, 1, 1, False, ref="c"), Build(4, None, 0, 0, False, ref="d")]
    for status in (
        full(),
        full(),
        full(builds=[*full().builds, *later], visits=[visit, visit]),
        full(builds=[], no_history="not known", removals=[], visits=[]),
        full(builds=[*full().builds, *later], visits=[visit, visit]),
    ):
        exporter.take([status])
    values = samples(exporter)
    assert values["builder_builds_total ok"] == 1
    assert values["builder_builds_total failed"] == 0
    assert values["builder_refused_logins_total"] == 1
    assert values["builder_janitor_removed_total space cache"] == 0


def test_the_first_removal_is_an_increase() -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    exporter = Exporter(is_past_counted=False)
    exporter.take([full(removals=[])])
    assert samples(exporter)["builder_janitor_removed_total space image"] == 0
    exporter.take([full()])
    values = samples(exporter)
    assert values["builder_janitor_removed_total age container"] == 3
    assert values["builder_janitor_removed_total space cache"] == 1
    assert values["builder_janitor_removed_total space image"] == 0


def test_the_janitor_removes_these_kinds_and_no_others() -> None:
    script = (ROOT / "components" / "janitor" / "janitor.sh").read_text()
    called = re.findall(r"^.*\bremove '?([a-z ]+?)'? \"\$", script, re.MULTILINE)
    printed = re.findall(r'print "(\w+)\\t"', script)
    assert {*called, *printed} == set(REMOVAL_KINDS)


def test_a_builder_that_cannot_be_read_is_down_and_has_no_figures() -> None:
    values = exported(Unread("b", ["no route"]))
    assert values == {"builder_up": 0, "builder_problems": 1}


@pytest.mark.parametrize("text", ["9105", "127.0.0.1", "127.0.0.1:port", "[::1", "127.0.0.1:0"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="must be ADDRESS:PORT"):
        _address(text)
    assert _address("[::1]:9105") == ("::1", 9105)


def unknown(expressions: list[str]) -> set[str]:
    """The metrics in these expressions that the exporter does not have."""
    names = {name.split()[0] for name in exported(full())}
    return {n for e in expressions for n in re.findall(r"\bbuilder_\w+", e)} - names


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in panels]
    assert all(x >= 0 and x + width <= 24 for x, _, width, _ in places)
    assert len({(x, y) for x, y, _, _ in places}) == len(places)
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    queries = [entry["query"]["query"] for entry in dashboard["templating"]["list"][1:]]
    assert len(expressions) > len(panels)
    assert not unknown([*expressions, *queries])


def lost(written: Any, read: Any, path: str = "") -> Iterator[str]:
    """Where `read` has not what `written` has; it may have more."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            yield from lost(value, read.get(name), f"{path}/{name}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, pair in enumerate(zip(written, read, strict=True)):
            yield from lost(*pair, f"{path}/{number}")
    elif written != read:
        yield path


def through_grafana_s_types(dashboard: Any) -> list[str]:
    """What Grafana's own types, made from the schemas of its dashboards and panels, do not know."""
    register_default_plugins()
    text = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(copy.deepcopy(dashboard)))
    return list(lost(dashboard, json.loads(text)))


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    text = (FOLDER / "dashboard.json").read_text()
    assert through_grafana_s_types(json.loads(text)) == []
    wrong = json.loads(text.replace('"legendFormat"', '"legend"'))
    wrong["panels"][0]["options"]["colour"] = "red"
    wrong["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    unknown = set(through_grafana_s_types(wrong))
    assert unknown > {"/panels/0/options/colour", "/panels/1/fieldConfig/defaults/units"}
    assert "/panels/0/targets/0/legend" in unknown


def test_the_rules_use_metrics_that_exist() -> None:
    [group] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    assert len(group["rules"]) == 6
    assert not unknown([rule["expr"] for rule in group["rules"]])


def test_promtool_accepts_the_rules_the_dashboard_s_queries_and_the_metrics(
    tmp_path: Path,
) -> None:
    def promtool(*words: str, text: str = "") -> None:
        subprocess.run(["promtool", *words], input=text, text=True, check=True, cwd=FOLDER)

    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", "rules_test.yml")
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [{"record": f"query:{n}", "expr": t["expr"]} for n, t in enumerate(targets)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": queries}]}))
    promtool("check", "rules", str(file))
    exporter = Exporter(is_past_counted=True)
    exporter.take([full()])
    promtool("check", "metrics", text=exporter.metrics.page().decode())
