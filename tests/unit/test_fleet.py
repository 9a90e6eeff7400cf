"""Several hosts in one stack: a builder each, one list of exports, and who lives where."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from client.assign import assign, draw
from tests.engine.figures import LONG, record
from tests.unit.conftest import KEY, OTHER_KEY, ROOT, Run
from tests.unit.test_program import CHILDREN
from tests.unit.test_settings import problems

HOSTS = [
    {
        "name": "eu1",
        "host": "ssh://ops@eu1.example",
        "hostKey": KEY,
        "sshPort": 2223,
        "platforms": ["linux/amd64", "linux/386"],
        "labels": {"disk": "fast"},
    },
    {
        "name": "arm",
        "host": "ssh://ops@arm.example",
        "hostKey": OTHER_KEY,
        "weight": 2,
        "platforms": ["linux/arm64"],
    },
]


def fleet(run_program: Callable[..., Run], **settings: Any) -> Run:
    return run_program(host=None, hosts=HOSTS, **settings)


def test_each_host_gets_the_same_component_on_its_own_provider(
    run_program: Callable[..., Run],
) -> None:
    run = fleet(run_program)
    for host in ("eu1", "arm"):
        children = {
            child.replace("builder-", f"builder-{host}-", 1): t for child, t in CHILDREN.items()
        }
        assert {n: r.type for n, r in run.resources.items() if f"-{host}-" in n} == children
        for name, kind in children.items():
            if kind.startswith("docker:"):
                assert f"::builder-{host}-host::" in run[name].request.provider, name
        assert run[f"builder-{host}-host"].inputs["host"] == f"ssh://ops@{host}.example"
        assert run[f"builder-{host}-daemon"].inputs["name"] == f"dev-builder-{host}-daemon"
        assert list(run[f"builder-{host}-host"].request.aliases) == []
    assert run["builder-eu1-gateway"].inputs["ports"][0]["external"] == 2223
    assert run["builder-arm-gateway"].inputs["ports"][0]["external"] == 2222
    assert " linux/amd64,linux/386 " in run["builder-eu1-preflight"].inputs["create"]
    assert "builder" not in run.resources


@pytest.mark.parametrize(
    "other", ["ssh://ops@arm.example", "ssh://ops@eu1.example:2200", "unix:///var/run/docker.sock"]
)
def test_nothing_of_one_host_depends_on_another(
    run_program: Callable[..., Run], other: str
) -> None:
    run = run_program(host=None, hosts=[HOSTS[0], {**HOSTS[1], "host": other}])
    for name, resource in run.resources.items():
        needed = " ".join(resource.request.dependencies)
        assert not ("builder-eu1" in name and "builder-arm" in needed), name
        assert not ("builder-arm" in name and "builder-eu1" in needed), name


def most_at_once(run: Run) -> int:
    """Most resources that can be at work on a host at once, by what waits for what.

    The widest antichain of the dependencies, which are there in deletion too (Dilworth: what a
    largest matching leaves over).
    """
    needs: dict[str, set[str]] = {}

    def all_needs(name: str) -> set[str]:
        if name not in needs:
            needs[name] = set()
            request = run[name].request
            urns = {*request.dependencies, request.parent}
            direct = {urn.rsplit("::", 1)[-1] for urn in urns} & run.resources.keys()
            needs[name] = direct.union(*map(all_needs, direct))
        return needs[name]

    at_work = [
        name
        for name, resource in run.resources.items()
        if resource.type.startswith("docker:")
        or str(resource.inputs.get("create")).startswith("ssh ")
    ]
    after: dict[str, str] = {}

    def matched(name: str, tried: set[str]) -> bool:
        for other in at_work:
            if name in all_needs(other) and other not in tried:
                tried.add(other)
                if other not in after or matched(after[other], tried):
                    after[other] = name
                    return True
        return False

    return len(at_work) - sum(matched(name, set()) for name in at_work)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"transport": "tls"},
        {
            "hostKeys": [1, 2],
            "privateNetworks": "block",
            "keys": [
                {"name": "ada", "publicKey": KEY},
                {"name": "ci", "publicKey": OTHER_KEY, "role": "build"},
            ],
        },
        {"registry": {"host": "n0"}},
    ],
    ids=["socket", "tls", "guarded", "registry"],
)
def test_many_builders_contact_a_host_as_rarely_as_one(
    run_program: Callable[..., Run], settings: dict[str, Any]
) -> None:
    def builders(number: int) -> Run:
        host = {"host": "ssh://ops@eu1.example", "hostKey": KEY}
        hosts = [{"name": f"n{n}", "sshPort": 3000 + n, **host} for n in range(number)]
        return run_program(host=None, hosts=hosts, **settings)

    many = builders(4)
    at_once = most_at_once(many)
    assert at_once == most_at_once(builders(1))
    # With one look beside them no more than the ten that sshd's MaxStartups lets log in.
    assert at_once + 1 <= 10
    # While one builder fails, clients still get the exports of the others.
    for name in ("builder-n1", "builder-n1-host-key-1"):
        assert not [urn for urn in many[name].request.dependencies if "builder-n0" in urn]


def test_all_builders_are_exported_in_one_list(run_program: Callable[..., Run]) -> None:
    exports = fleet(run_program).exports
    eu1, arm = exports["builders"]
    assert eu1 == {
        "name": "eu1",
        "labels": {"disk": "fast"},
        "weight": 1,
        "platforms": ["linux/amd64", "linux/386"],
        "sshDestination": "builder@eu1.example",
        "dockerHost": "ssh://builder@eu1.example:2223",
        "sshAlias": "dev-builder-eu1",
        "sshConfig": eu1["sshConfig"],
        "knownHosts": f"[eu1.example]:2223 {KEY}\n",
    }
    assert (arm["name"], arm["weight"], arm["sshAlias"]) == ("arm", 2, "dev-builder-arm")
    assert exports["sshConfig"] == eu1["sshConfig"] + arm["sshConfig"]
    assert exports["dockerHost"] == eu1["dockerHost"]
    assert exports["buildxCreate"].splitlines() == [
        "docker buildx create --name dev --node dev-eu1 --driver docker-container --driver-opt "
        "image=moby/buildkit:v0.34.2 --platform linux/amd64,linux/386 ssh://dev-builder-eu1",
        "docker buildx create --name dev --node dev-arm --append --driver docker-container "
        "--driver-opt image=moby/buildkit:v0.34.2 --platform linux/arm64 ssh://dev-builder-arm",
    ]


def test_one_host_is_exported_as_a_list_of_one(
    run_program: Callable[..., Run],
) -> None:
    run = run_program()
    assert [entry["name"] for entry in run.exports["builders"]] == ["builder"]
    assert run.exports["builders"][0]["sshConfig"] == run.exports["sshConfig"]
    assert set(run.exports) == {
        "builders",
        "sshDestination",
        "dockerHost",
        "sshAlias",
        "sshConfig",
        "knownHosts",
    }


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "ssh://a@b", "hostKey": KEY, "hosts": HOSTS}, "host, hostKey and hosts exclude"),
        ({"hosts": [HOSTS[0], HOSTS[0]]}, "hosts has the same name twice"),
        ({"hosts": [HOSTS[0], {**HOSTS[0], "name": "eu2"}]}, "the same sshPort on one host twice"),
        (
            {
                "hosts": [HOSTS[0], {**HOSTS[0], "name": "eu2", "sshPort": 2301}],
                "metrics": "0.0.0.0:9105",
            },
            "the same port of metrics on one host twice",
        ),
        (
            {"hosts": [{**HOSTS[0], "metrics": "9105"}]},
            "hosts[0].metrics = '9105' must be an IPv4 address",
        ),
        ({"hosts": [{"name": "A b", "host": "unix:///x"}]}, "hosts[0].name = 'A b' must be 1 to"),
        (
            {"hosts": [{"name": "a", "host": "ssh://o@h"}]},
            "hosts[0] hostKey is empty, but host = ssh://o@h",
        ),
        ({"hosts": [{"name": "a", "host": "unix:///x", "wieght": 2}]}, "did you mean weight?"),
        ({"hosts": [{"name": "a", "host": "unix:///x", "weight": 0}]}, "hosts[0].weight"),
        ({"hosts": [{"name": "a", "host": "unix:///x", "labels": {"x": "y z"}}]}, "'y z' must be"),
        ({"platforms": ["amd64"]}, "platforms[0] = 'amd64' must be a platform"),
        ({"buildkitImage": "moby/buildkit"}, "must be pinned"),
    ],
)
def test_wrong_settings_of_hosts(settings: dict[str, Any], problem: str) -> None:
    text = problems(**({"host": None} | settings))
    assert problem in text, text


def entries(number: int) -> list[dict[str, Any]]:
    return [{"name": f"h{n}", "weight": 1, "platforms": [], "labels": {}} for n in range(number)]


# Of 100,000 projects on 1,000 hosts the large figures are made, by `make trials`.
@pytest.mark.parametrize(
    ("hosts", "projects"),
    [(10, 100_000), (100, 100_000), (1000, 100_000)] if LONG else [(10, 2000)],
)
def test_only_projects_of_a_removed_host_move(hosts: int, projects: int) -> None:
    names = [f"h{n}" for n in range(hosts)]
    moved = kept = 0
    lives_on = dict.fromkeys(names, 0)
    for number in range(projects):
        project = f"acme/project-{number}"
        # Best and second: where it lives, and where it goes when its host leaves.
        draws = sorted(((draw(project, name), name) for name in names), reverse=True)[:2]
        lives_on[draws[0][1]] += 1
        left = [name for name in names if name != "h0"] if number < 50 else None
        if draws[0][1] == "h0":
            moved += 1
        else:
            kept += 1
        if left:
            now = max((draw(project, name), name) for name in left)[1]
            assert now == (draws[1][1] if draws[0][1] == "h0" else draws[0][1])
    share = projects / hosts
    record(
        f"a host of {hosts} leaves: of {projects} projects",
        1,
        document="scale",
        move=moved,
        stay=kept,
        fewest_on_a_host=min(lives_on.values()),
        most_on_a_host=max(lives_on.values()),
    )
    assert 0.6 * share < moved < 1.5 * share
    assert moved + kept == projects


def test_a_heavier_host_gets_its_share_and_projects_move_only_to_it() -> None:
    light = entries(4)
    heavy = [{**light[0], "weight": 3}, *light[1:]]
    projects = [f"p{n}" for n in range(1200)]
    before = {p: assign(p, light)["name"] for p in projects}
    after = {p: assign(p, heavy)["name"] for p in projects}
    assert 500 < list(after.values()).count("h0") < 700
    assert all(after[p] in (before[p], "h0") for p in projects)


def test_a_project_can_ask_for_a_platform_and_labels() -> None:
    some = entries(3)
    some[1] = {**some[1], "platforms": ["linux/arm64"], "labels": {"disk": "fast"}}
    for project in ("a", "b", "c"):
        assert assign(project, some, platform="linux/arm64")["name"] == "h1"
        assert assign(project, some, labels={"disk": "fast"})["name"] == "h1"
    with pytest.raises(LookupError, match="no builder has platform linux/s390x; there are: h0, h1"):
        assign("a", some, platform="linux/s390x")


def test_the_shell_assigns_as_python_does() -> None:
    weighted = [{**entry, "weight": 1 + n % 2} for n, entry in enumerate(entries(4))]
    words = [f"{entry['name']}={entry['weight']}" for entry in weighted]
    for project in ("acme/web", "acme/api", "x", "ünïcode", "with space"):
        printed = subprocess.run(
            ["sh", str(ROOT / "client/assign.sh"), project, *words],
            text=True,
            capture_output=True,
            check=True,
        )
        assert printed.stdout.strip() == assign(project, weighted)["name"]


def test_hosts_serve_their_metrics_where_their_entries_say(
    run_program: Callable[..., Run],
) -> None:
    entries = [
        {**HOSTS[0], "metrics": "10.0.0.5:9200"},
        HOSTS[1],
        {**HOSTS[1], "name": "quiet", "sshPort": 2300, "metrics": ""},
    ]
    run = run_program(host=None, hosts=entries, metrics="127.0.0.1:9105")
    ports = {
        name.removesuffix("-metrics-page"): resource.inputs["ports"][0]
        for name, resource in run.resources.items()
        if name.endswith("-metrics-page")
    }
    assert ports == {
        "builder-eu1": {"internal": 9105, "external": 9200, "ip": "10.0.0.5"},
        "builder-arm": {"internal": 9105, "external": 9105, "ip": "127.0.0.1"},
    }
