"""Teams on one host: scripts/team.py writes a stack for each, and none can access another's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from scripts import team
from tests.engine.conftest import BASE_IMAGE, PROJECT, ROOT, Builder, make_key, passed, run
from tests.engine.figures import LONG

TEAMS = 10 if LONG else 3
AT_ONCE = 3


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Builder]]:
    """Builders of teams, deployed at the same time with the files that `make team` writes."""
    folder = tmp_path_factory.mktemp("teams")
    # Other ports than that of `make up`.
    defaults = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    defaults["config"]["sshPort"]["default"] = 23000
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump(defaults))
    builders: list[Builder] = []
    for number in range(TEAMS):
        name = f"team-{number}"
        key = folder / f"{name}-key"
        make_key(key)
        team.main(str(folder), str(folder), name, "", "", f"{key}.pub")
        written = yaml.safe_load((folder / f"Pulumi.{name}.yaml").read_text())["config"]
        settings = {setting.removeprefix(f"{PROJECT}:"): v for setting, v in written.items()}
        builder = Builder.create(folder / name, sshAddress="0.0.0.0", **settings)
        for suffix in ("", ".pub"):
            shutil.copy(f"{key}{suffix}", builder.folder / f"ada{suffix}")
        builders.append(builder)

    def deploy(builder: Builder) -> None:
        builder.up()
        builder.load_base()

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(deploy, builders))
        yield builders
    finally:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Builder.clear_away, builders))


def addresses(teams: list[Builder], what: str) -> str:
    """The addresses of these teams' containers, or of the host on their bridges."""
    form = f"{{{{range .NetworkSettings.Networks}}}}{{{{.{what}}}}} {{{{end}}}}"
    containers = [b.container(role) for b in teams for role in ("daemon", "gateway", "janitor")]
    return " ".join(
        sorted({*passed(run("docker", "inspect", "--format", form, *containers)).split()})
    )


def test_each_has_its_own_names_and_port(teams: list[Builder]) -> None:
    assert len({b.settings["sshPort"] for b in teams}) == TEAMS
    for kind, every in (("container", ("--all",)), ("volume", ()), ("network", ())):
        for builder in teams:
            label = f"label=docker-build-machine.owner={PROJECT}/{builder.stack}/builder"
            form = "{{.Names}}" if kind == "container" else "{{.Name}}"
            named = passed(
                run("docker", kind, "ls", *every, "--filter", label, "--format", form)
            ).split()
            assert named
            assert all(name.startswith(f"{builder.stack}-builder-") for name in named)


def test_each_sees_only_its_own_images_cache_and_containers(teams: list[Builder]) -> None:
    first, *others = teams
    assert "CACHED" not in first.build("ours")
    passed(first.docker("run", "--detach", "--name", "ours", BASE_IMAGE, "sleep", "60"))
    passed(first.docker("volume", "create", "ours"))
    assert first.build("ours").count("CACHED") == 3
    for other in others:
        for kind in ("image", "container", "volume"):
            assert (
                passed(
                    other.docker(
                        kind,
                        "ls",
                        "--quiet",
                        "--filter",
                        {
                            "image": "reference=ours",
                            "container": "name=ours",
                            "volume": "name=ours",
                        }[kind],
                    )
                )
                == ""
            )
        assert "CACHED" not in other.build("ours")


def test_a_key_of_one_is_refused_by_the_other(teams: list[Builder]) -> None:
    first, *others = teams
    for other in others:
        shutil.copy(first.folder / "ada", other.folder / "stranger")
        refused = other.ping("stranger")
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr


# Everything that a step can try with busybox; each finding is one line.
ATTACK = """
reach() { nc -w 1 "$1" "$2" </dev/null >/dev/null 2>&1 && echo "REACHED $1:$2"; }
ask() {
    said=$(echo 'GET /_ping HTTP/1.0' | nc -w 3 "$1" "$2" 2>/dev/null | head -c 7)
    case $said in '') ;; SSH-2.0) echo "SSHD $2" ;; *) echo "ANSWERED $1:$2 $said" ;; esac
}
for address in $CONTAINERS; do
    for port in 22 2222 2375 2376 5000; do reach "$address" "$port" & done
done
for port in $PORTS; do
    for address in $CONTAINERS $BRIDGES 198.18.0.2; do ask "$address" "$port" & done
done
wait
find / \\( -path '*/proc' -o -path '*/sys' \\) -prune -o -type s -print 2>/dev/null |
    sed 's/^/SOCKET /'
find / \\( -path '*/proc' -o -path '*/sys' \\) -prune -o -name "*$MARK*" -print 2>/dev/null |
    sed 's/^/MARK /'
cat /proc/*/mountinfo /host/proc/*/mountinfo 2>/dev/null | grep -o "$STACK-builder" | sort -u |
    sed 's/^/MOUNT /'
for device in /dev/sd* /dev/vd* /dev/nvme* /dev/loop*; do
    dd if="$device" of=/dev/null bs=512 count=1 2>/dev/null && echo "DEVICE $device"
done
echo END
"""


@pytest.fixture(scope="module")
def attack(teams: list[Builder]) -> list[str]:
    """Inputs of the attack: addresses to try, and the names of the other team's volumes."""
    victim = teams[1]
    mark = f"secret-{victim.stack}"
    passed(victim.docker("volume", "create", mark))
    passed(
        victim.docker("run", "--rm", "--volume", f"{mark}:/v", BASE_IMAGE, "touch", f"/v/{mark}")
    )
    ports = " ".join(str(builder.settings["sshPort"]) for builder in teams[1:])
    return [
        f"CONTAINERS={addresses(teams[1:], 'IPAddress')}",
        f"BRIDGES={addresses(teams[1:], 'Gateway')}",
        f"PORTS={ports}",
        f"MARK={mark}",
        f"STACK={victim.stack}",
    ]


def findings(output: str) -> list[str]:
    kinds = ("REACHED", "ANSWERED", "SOCKET", "MARK", "MOUNT", "DEVICE", "END")
    return [line for line in output.splitlines() if line.startswith(kinds)]


def test_a_build_step_reaches_nothing_of_another_team_nor_its_own_daemon(
    teams: list[Builder], attack: list[str], tmp_path: Path
) -> None:
    (tmp_path / "attack").write_text(ATTACK)
    arguments = [word for value in attack for word in ("--build-arg", value)]
    names = " ".join(value.split("=")[0] for value in attack)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE_IMAGE}\nARG {names}\nCOPY attack /\nRUN sh /attack >/found\n"
    )
    passed(teams[0].docker("build", "--tag", "attack", *arguments, str(tmp_path)))
    found = passed(teams[0].docker("run", "--rm", "attack", "cat", "/found"))
    assert findings(found) == ["END"]
    assert "SSHD " in found


@pytest.mark.parametrize("options", [(), ("--privileged", "--volume=/:/host")], ids=str)
def test_a_container_reaches_nothing_of_another_team(
    teams: list[Builder], attack: list[str], options: tuple[str, ...]
) -> None:
    """A privileged container with the builder's own root folder finds its own team's socket.

    This, and the published port that answers, show that the attack can find something.
    """
    environment = [word for value in attack for word in ("--env", value)]
    found = passed(
        teams[0].docker("run", "--rm", *options, *environment, BASE_IMAGE, "sh", "-c", ATTACK)
    )
    own = [line for line in findings(found) if line.startswith("SOCKET /host/")]
    assert [line for line in findings(found) if line not in own] == ["END"]
    assert bool(own) == bool(options)
    assert "SSHD " in found
