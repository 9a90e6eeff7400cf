"""The output of python -m client for a stack that is not deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from client import kit, status
from client.buildkit import connected
from client.explain import Cause, Explained, Reason, explain_last
from client.forecast import Forecast
from client.glance import problems
from client.history import (
    Build,
    Day,
    Details,
    History,
    Record,
    Step,
    days_of,
    steps_of,
    summary,
)
from client.stack import Stack, StackError
from client.status_page import page
from client.status_text import as_text
from components.metrics.program.buildkit import BuildKit
from tests.unit.conftest import KEY, OTHER_KEY
from tests.unit.protobuf_classes import MESSAGES
from tests.unit.test_builds import record

OUTPUTS = {
    "sshAlias": "team-a-builder",
    "dockerHost": "ssh://builder@build.example:2222",
    "knownHosts": f"[build.example]:2222 {KEY}\n",
}


def stack(**settings: Any) -> Stack:
    keys = [
        {"name": "ada", "publicKey": f"{KEY} ada@laptop"},
        {"name": "ci-ca", "publicKey": OTHER_KEY, "principals": ["ci"]},
    ]
    return Stack(OUTPUTS, {"keys": keys, **settings})


def shown(**changes: Any) -> status.Status:
    values: dict[str, Any] = {
        "builder": "team-a-builder",
        "asked": 1_000_000.0,
        "version": "29.9.3",
        "up_since": 1_000_000.0 - 90_000,
        "containers": {"daemon": "running (healthy)"},
        "cache": 2 * 10**9,
        "cache_cap": 8 * 10**9,
        "images": 0,
        "image_store": "containerd",
        "idle_store": "",
        "disk": 10**11,
        "limits": "containers keep to theirs",
        "disk_free": 4 * 10**10,
        "inodes": 10**6,
        "inodes_free": 5 * 10**5,
        "disk_forecast": Forecast("full in about 9 days at the rate of the last 3 days", 9.1),
        "builds": [],
        "days": [],
        "no_history": "",
        "keys": [],
        "identities": [],
        "connections": [],
        "refusals": [],
        "host_keys": [],
        "certificate_until": "",
        "notices": [],
        "visits": [],
        "removals": [],
        "explained": [],
        **changes,
    }
    return status.Status(**values)


def test_a_kit_has_exactly_these_files() -> None:
    files = kit.kit_files(stack(), stack().key("ada"))
    assert set(files) == {
        *kit.COMMAND_FILES,
        "README.md",
        "team-a-builder/ssh_config",
        "team-a-builder/known_hosts",
        "team-a-builder/key.pub",
    }
    assert files["team-a-builder/known_hosts"] == OUTPUTS["knownHosts"]
    assert files["team-a-builder/key.pub"] == f"{KEY} ada\n"
    assert not re.search(r"@[a-z]+@", files["README.md"]), "every place of the page is filled"


def test_a_kit_of_a_fleet_has_each_of_its_builders() -> None:
    entries = [
        {
            "name": name,
            "sshAlias": f"team-{name}",
            "dockerHost": f"ssh://builder@{name}.example:22",
            "knownHosts": f"{name}.example {KEY}\n",
        }
        for name in ("eu1", "arm")
    ]
    fleet = Stack({**OUTPUTS, "builders": entries}, stack().settings)
    files = kit.kit_files(fleet, fleet.key("ada"))
    assert {name.split("/")[0] for name in files} == {
        *kit.COMMAND_FILES,
        "README.md",
        "team-eu1",
        "team-arm",
    }
    assert files["team-arm/known_hosts"] == f"arm.example {KEY}\n"
    assert "HostName arm.example\n" in files["team-arm/ssh_config"]


def test_a_builder_that_cannot_be_read_does_not_hide_others() -> None:
    unread = status.Unread("team-a-builder-eu1", ["no route\nnext: look"])
    html = page([unread, shown()])
    assert "<title>team-a-builder-eu1, team-a-builder</title>" in html
    assert "cannot be read" in html
    assert "all well" in html
    assert as_text(unread).startswith("team-a-builder-eu1: cannot be read\n")
    assert list(problems([unread, shown()])) == ["team-a-builder-eu1: no route next: look"]


def test_a_host_without_a_builder_yet_says_so() -> None:
    added = {"name": "eu1", "host": "ssh://ops@eu1.example"}
    new = Stack({**OUTPUTS, "builders": []}, {"hosts": [added]})
    with pytest.raises(StackError, match="host eu1 has no builder yet; next: pulumi up"):
        new.on_host("eu1")


def test_containers_are_expected_by_keys_and_identities_that_have_not_ended() -> None:
    def expected(**settings: Any) -> set[str]:
        return set(status._expected(stack(**settings), 1_000_000.0)) - set(status._ROLES)

    past, day = "1970-01-11", "1970-01-12"
    build = {"name": "ci", "publicKey": KEY, "role": "build"}
    assert expected() == set()
    assert expected(keys=[{**build, "until": day}]) == {"guard"}
    assert expected(keys=[{**build, "until": past}]) == set()
    assert expected(identities=[{"name": "a"}]) == {"guard", "verifier"}
    assert expected(identities=[{"name": "a", "role": "admin"}]) == {"verifier"}
    assert expected(identities=[{"name": "a", "until": past}]) == set()
    assert expected(metrics="127.0.0.1:9105") == {"metrics", "metrics-page"}


def test_an_authority_gets_a_kit_without_a_key() -> None:
    assert "team-a-builder/key.pub" not in kit.kit_files(stack(), stack().key("ci-ca"))


def test_the_ssh_configuration_is_strict_and_names_no_algorithm() -> None:
    config = kit.ssh_config(stack())
    assert config.startswith(
        "Host team-a-builder\n  HostName build.example\n  Port 2222\n  User builder\n"
        "  StrictHostKeyChecking yes\n"
    )
    assert "Algorithms" not in config
    windows = kit.windows_config(stack())
    assert "Control" not in windows
    assert "  StrictHostKeyChecking yes\n" in windows


def test_an_unknown_key_is_refused_with_the_known_names() -> None:
    with pytest.raises(StackError, match=r"--key eve: .* allowed: ada, ci-ca; next: "):
        stack().key("eve")


def test_a_key_is_found_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(f"{KEY} another comment\n")
    assert stack().key(str(tmp_path / "id.pub")).name == "ada"


def test_a_page_shows_everything_as_text_and_needs_no_other_file() -> None:
    key = status.KeyUse(
        "<b>ada</b>", "build", "2027-01-31", 2, "1970-01-12T13:44:40Z", "SHA256:x", False
    )
    html = page(
        [
            shown(
                keys=[key],
                builds=[Build(999_000.0, 2.5, 4, 3, False), Build(999_900.0, None, 0, 0, False)],
                notices=["<script>alert(1)</script>"],
            )
        ]
    )
    assert "<b>ada</b>" not in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "75%" in html
    assert "Limits: containers keep to theirs" in html
    assert '<span class="soft">build</span>' in html
    assert "17 minutes ago: 2.5 s, 3 of 4 steps from the cache" in html
    assert not re.search(r"https?://|\bsrc=|\bhref=|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html


def test_a_page_has_a_waterfall_of_each_build_with_why_its_steps_ran() -> None:
    options = {"filename": "Dockerfile", "vcs:revision": "3f2a1bcd"}
    steps = [
        Step("a", "[internal] load build context", (), 999_000, 999_001, bytes=20_000),
        Step("b", "[1/3] RUN <one> s3cret", (), 999_001, 999_001, cached=True),
        Step("c", "[2/3] RUN two", ("b",), 999_001, 999_006),
        Step("d", "[3/3] RUN three", ("c",), 999_006, 999_010, failed=True),
        Step("e", "exporting to image", ("d",)),
    ]
    error = "process <three> failed: s3cret"
    built = record(
        "ref1", 999_000, options=options, error=error, completed=999_010, arguments={"A": "s3cret"}
    )
    reasons = [
        Reason("[2/3] RUN two", 4, Cause.FILE, "<a>.txt changed"),
        Reason("[3/3] RUN three", 5, Cause.BEFORE, "[2/3], on which it builds, ran"),
    ]
    build = summary(built, steps)
    html = page(
        [
            shown(
                builds=[Build(998_000, 1, 1, 1, False, ref="ref0"), build],
                explained=[Explained(Details(built, steps, {}), reasons)],
            )
        ]
    )
    assert re.findall(r'href="([^"]*)"', html) == ["#build-ref1"], "of the chart, to the waterfall"
    assert html.count('id="build-ref1"') == 1
    rows = re.findall(r'<li class="(\w+)">\n<code>(.*?)(?: <span.*)?</code>', html)
    assert rows == [
        ("own", "[internal] load build context"),
        ("cached", "[1/3] RUN &lt;one&gt; $A"),
        ("ran", "[2/3] RUN two"),
        ("failed", "[3/3] RUN three"),
    ]
    places = re.findall(r'style="left: ([\d.]+)%; width: ([\d.]+)%"', html)
    assert places == [("0.00", "10.00"), ("10.00", "0.00"), ("10.00", "50.00"), ("60.00", "40.00")]
    assert re.findall(r'<span class="took">(.*)</span>', html) == [
        "1.0 s",
        "cached",
        "5.0 s",
        "4.0 s",
    ]
    assert '[internal] load build context <span class="soft">20.0 kB</span></code>' in html
    assert "<p><b>file</b> &lt;a&gt;.txt changed</p>" in html
    assert "<p><b>step before it</b> [2/3], on which it builds, ran</p>" in html
    assert '<p class="error">process &lt;three&gt; failed: $A</p>' in html
    assert "17 minutes ago, 10.0 s, 1 of 3 steps cached, 20.0 kB of context, commit 3f2a1bc" in html
    assert "s3cret" not in html
    assert not re.search(r"<script|https?://|\bsrc=|url\(|@import", html)


def test_a_page_shows_the_days_without_builds_too() -> None:
    """The page is of 12 January 1970."""
    days = [Day("1969-12-20", 9, 9), Day("1970-01-09", 4, 1), Day("1970-01-11", 8, 0)]
    html = page([shown(builds=[Build(999_000.0, 2.5, 4, 3, False)], days=days)])
    found = re.findall(
        r'<li><span class="soft">(\d+)</span>\n<i class="ran" style="height: ([\d.]+)px">'
        r'<i class="failed" style="height: ([\d.]+)px"></i></i>\n<span class="soft">(.*)</span>',
        html,
    )
    assert found == [
        ("4", "28.0", "7.0", "9 Jan"),
        ("0", "0.0", "0.0", "10 Jan"),
        ("8", "56.0", "0.0", "11 Jan"),
        ("0", "0.0", "0.0", "12 Jan"),
    ]
    assert "By day" not in page([shown(builds=[Build(999_000.0, 1, 1, 1, False)])])


def test_builds_are_counted_by_the_day_on_which_they_started() -> None:
    records = [
        record("a", 86_399.0),
        record("b", 86_400.0, error="no"),
        record("c", 100_000.0),
        record("d", 100_001.0, completed=None),
    ]
    assert days_of(records) == [Day("1970-01-01", 1, 0), Day("1970-01-02", 2, 1)]


def test_identities_are_shown_beside_the_keys() -> None:
    main = status.IdentityUse(
        "main",
        "build",
        "2027-01-31",
        2,
        "1970-01-12T13:44:40Z",
        "https://ci.example",
        {"repository": "acme/<b>app"},
    )
    shows_it = shown(identities=[main])
    assert (
        "  identity  main         https://ci.example, repository acme/<b>app, role build, "
        "2 connected, last login 2 minutes ago, until 2027-01-31"
    ) in as_text(shows_it)
    html = page([shows_it])
    assert "<code>ci.example, repository acme/&lt;b&gt;app</code>" in html
    assert not re.search(r"https?://", html)


def test_a_builder_without_builds_and_keys_has_a_page() -> None:
    assert "no builds" in page([shown(cache_cap=0, disk=0)])
    assert "none remembered" in as_text(shown())


def test_data_of_another_image_store_is_shown() -> None:
    left = shown(image_store="containerd", idle_store="overlay2")
    text = "containerd; overlay2 is on the disk too, unused; to delete it: make free"
    assert f"store     {text}" in as_text(left)
    assert f"Image store: {text}" in page([left])
    assert "Image store: containerd<" in page([shown()])


def test_the_text_shows_the_same_facts() -> None:
    visit = status.Visit("1970-01-12T13:00:00Z", True, "-", "SHA256:y", "192.0.2.7")
    text = as_text(
        shown(builds=[Build(999_000.0, 2.0, 4, 1, True)], refusals=[visit], notices=["mend it"])
    )
    assert "team-a-builder: Docker 29.9.3, up since 1970-01-11 12:46 UTC" in text
    assert "2.0 GB of 8.0 GB (25%)" in text
    assert "limits    containers keep to theirs" in text
    assert "0 now; of the last 1: 25% of the steps cached, 1 failed" in text
    assert "refused   - SHA256:y from 192.0.2.7 at 1970-01-12T13:00:00Z" in text
    assert "look at   mend it" in text


def test_logins_and_refusals_are_read_from_the_gateway_s_log() -> None:
    log = (
        "2026-11-25T03:46:08Z login name=ada key=SHA256:a from=192.0.2.7:52582\n"
        "[gateway] configured for user builder\n"
        "  2026-11-25T03:46:09Z refused name=- key=SHA256:b from=2001:db8::1:52 user=root\n"
        "2026-11-25T03:46:10Z login name=ca certificate=job serial=1 key=SHA256:c "
        "from=192.0.2.8:1\n"
    )
    assert [(v.name, v.refused, v.fingerprint, v.address) for v in status.Visit.parse(log)] == [
        ("ada", False, "SHA256:a", "192.0.2.7"),
        ("-", True, "SHA256:b", "2001:db8::1"),
        ("ca", False, "SHA256:c", "192.0.2.8"),
    ]


def field(number: int, value: int | bytes) -> bytes:
    """A field in protobuf's encoding; number and length are below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def read(event: bytes) -> Record | None:
    """The record of a BuildHistoryEvent as BuildKit sends it."""
    return Record.parse(MESSAGES["BuildHistoryEvent"].FromString(event))


def test_a_build_is_read_from_buildkit_s_history() -> None:
    record = field(1, b"ref") + field(6, field(1, 100)) + field(7, field(1, 102)) + b"\x7a\x00"
    done = read(field(1, 1) + field(2, record))
    assert done
    assert summary(done, []) == Build(100.0, 2.0, 0, 0, False, ref="ref")
    assert not read(field(1, 2) + field(2, record)), "a deleted one"
    exporter = field(2, field(1, b"name") + field(2, b"docker.io/library/a:1,b.example/c"))
    named = read(field(2, field(1, b"ref") + field(4, exporter)))
    assert named
    assert named.images == ("a:1", "b.example/c"), "some clients and image stores write docker.io"
    running = read(field(2, field(1, b"ref") + field(6, field(1, 100))))
    assert running
    assert summary(running, []).seconds is None


def test_only_a_dockerfile_s_own_steps_count() -> None:
    names = {
        b"[internal] load build definition from Dockerfile": 1,
        b"[1/3] FROM docker.io/library/alpine:3.22": 1,
        b"[2/3] RUN make": 1,
        b"[linux/amd64 tests 3/3] COPY . .": 0,
        b"exporting to image": 0,
    }

    def vertex(name: bytes, cached: int) -> bytes:
        return field(1, field(1, name) + field(3, name) + (field(4, 1) if cached else b""))

    answers = [*(vertex(*item) for item in names.items()), vertex(b"[2/3] RUN make", 0)]
    steps = steps_of(map(MESSAGES["StatusResponse"].FromString, answers))
    record = read(field(2, field(6, field(1, 0)) + field(7, field(1, 1))))
    assert record
    assert summary(record, steps) == Build(0, 1, 2, 1, False)


def test_a_daemon_that_passes_no_api_through_says_why() -> None:
    dial = ["sh", "-c", "echo \"docker: 'buildx' is not a docker command.\" >&2; exit 1"]
    with (
        pytest.raises(OSError, match=r"^docker: 'buildx' is not a docker command\.$"),
        connected(dial) as buildkit,
    ):
        History(buildkit).records()


class RememberedBuilds:
    """BuildKit with two builds, of which the second ran a step again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def history(self) -> list[Any]:
        event = MESSAGES["BuildHistoryEvent"]
        times = {"completed": {"seconds": 9}}
        return [
            event(record={"ref": ref, "created": {"seconds": start}, **times})
            for start, ref in enumerate(("first", "second"), start=1)
        ]

    def status(self, ref: str) -> list[Any]:
        self.asked.append(ref)
        time = {"seconds": 3}
        step = {"digest": "a", "name": "[2/2] RUN make", "started": time, "completed": time}
        return [MESSAGES["StatusResponse"](vertexes=[step])]

    def disk_usage(self) -> Any:
        return MESSAGES["DiskUsageResponse"]()


def test_each_build_is_read_once() -> None:
    daemon = RememberedBuilds()
    history = History(cast(BuildKit, daemon))
    records = history.records()
    assert [build.ref for build in history.recent(records)] == ["first", "second"]
    explained = explain_last(history, records, 50, [])
    assert [one.details.record.ref for one in explained] == ["second", "first"]
    assert sorted(daemon.asked) == ["first", "second"]
