"""The transport `tls`, end to end: mutual TLS on the private network, and no secret in clear text.

After a complete run, nothing that it wrote, printed or showed has a secret in clear text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.engine.conftest import Builder, NewBuilder, passed, run
from tests.engine.laptop import Laptop
from tests.engine.processes import command_lines

ROLES = ("daemon", "gateway", "janitor", "keys", "certificates")


@dataclass
class WholeRun:
    """A builder after a complete run, its secrets, and everything that could contain them."""

    builder: Builder
    secrets: dict[str, list[str]] = field(default_factory=dict)
    """By name: the lines by which each secret can be found."""
    places: dict[str, str] = field(default_factory=dict)
    """By name: the texts that were written there."""

    def leaks(self, places: dict[str, str]) -> list[str]:
        return [
            f"{secret} in {place}"
            for place, text in places.items()
            for secret, lines in self.secrets.items()
            if any(line in text for line in lines)
        ]


# Who reads the keys in each container; root in the daemon's has no power over files.
USERS = {"gateway": "0", "daemon": "1000"}


def private_key(builder: Builder, role: str, path: str) -> list[str]:
    """The lines of the key that differ from those of every other key."""
    text = passed(builder.inside(role, "cat", path, user=USERS[role]))
    lines = [line for line in text.splitlines() if "PRIVATE KEY" not in line]
    # The first line of an OpenSSH key is the same for all keys of its kind.
    return [line for line in lines[1 if "OPENSSH" in text else 0 :] if len(line) > 20]


@pytest.fixture(scope="module")
def whole(new_builder: NewBuilder) -> WholeRun:
    """Deployed over TLS, which has the most secrets; previewed, handed out, used, refreshed."""
    builder = new_builder(transport="tls")
    temporary = builder.folder / "temporary"
    temporary.mkdir()
    builder.env["TMPDIR"] = str(temporary)
    this = WholeRun(builder)
    places = this.places
    with command_lines() as seen:
        places["preview --json"] = passed(builder.pulumi("preview", "--json"))
        places["up"] = builder.up()
        places["second preview --json"] = passed(builder.pulumi("preview", "--json", "--diff"))
        places["refresh"] = passed(builder.pulumi("refresh"))
        builder.load_base()
        places["build"] = builder.build()
        places["client kit"] = passed(
            builder.client("kit", "--key", "ada", "--out", str(builder.folder / "kit"))
        )
        places["status"] = passed(builder.client("status", "--json"))
    places["command lines"] = "\n".join(seen)
    places["state"] = builder.state()
    for folder in ("backend", "project", "kit", "temporary"):
        for file in (builder.folder / folder).rglob("*"):
            if file.is_file():
                places[str(file)] = file.read_text(errors="replace")
    places["configuration"] = (builder.folder / "config.yaml").read_text()
    for role in ROLES:
        container = builder.container(role)
        places[f"inspect {role}"] = passed(run("docker", "inspect", container))
        logs = run("docker", "logs", container)
        places[f"logs {role}"] = passed(logs) + logs.stderr
    for role in ("daemon", "gateway"):
        image = builder.settings[f"{role}Image"]
        places[f"history {role}"] = passed(run("docker", "history", "--no-trunc", image))
    places["history of what was built"] = passed(
        builder.docker("history", "--no-trunc", "built")
    ) + passed(builder.docker("inspect", "built"))
    this.secrets = {
        "host key": private_key(builder, "gateway", "/usr/local/lib/gateway/host_key"),
        "key of the health check": private_key(builder, "gateway", "/run/gateway/health"),
        "TLS key of the gateway": private_key(builder, "gateway", "/tls/key.pem"),
        "TLS key of the daemon": private_key(builder, "daemon", "/certs/server/key.pem"),
        "passphrase": [builder.env["PULUMI_CONFIG_PASSPHRASE"]],
    }
    return this


def test_the_search_finds_secrets(whole: WholeRun) -> None:
    assert all(whole.secrets.values())
    shown = passed(
        run(
            "pulumi",
            "stack",
            "export",
            "--show-secrets",
            "--stack",
            whole.builder.stack,
            env=whole.builder.env,
        )
    )
    assert whole.leaks({"export": shown}) == ["host key in export"]
    assert f"config-file {whole.builder.folder}/config.yaml" in whole.places["command lines"]


def test_no_secret_is_in_clear_text(whole: WholeRun) -> None:
    assert len(whole.places) > 20
    assert whole.leaks(whole.places) == []


def test_only_their_users_can_read_the_keys(whole: WholeRun) -> None:
    """Only those processes and mounts on the host that need the keys can read them."""
    keys = {
        "gateway": ("/usr/local/lib/gateway/host_key", "/run/gateway/health", "/tls/key.pem"),
        "daemon": ("/certs/server/key.pem",),
    }
    for role, paths in keys.items():
        for path in paths:
            shown = whole.builder.inside(role, "stat", "-c%a", path, user=USERS[role])
            mode = passed(shown).strip()
            assert mode in ("400", "600"), path


def test_tls_builds_and_requires_a_certificate(whole: WholeRun) -> None:
    builder = whole.builder
    assert "CACHED" not in whole.places["build"]
    assert builder.build().count("CACHED") == 3
    assert "unchanged" in builder.up("--expect-no-changes")

    with Laptop.with_kit(builder) as laptop:
        opened = laptop.builder("on")
        assert opened.returncode == 0
        assert "the socket cannot be forwarded (transport tls" in opened.stderr
        assert "Server" in passed(laptop.sh("docker version"))
        assert passed(laptop.builder("list")) == f"{builder.stack}-builder\tplain ssh\n"

    def ask(url: str, *options: str) -> str:
        result = builder.inside("gateway", "/tls/docker", *options, "--host", url, "version")
        return result.stdout + result.stderr

    verified = ("--tlsverify", "--tlscacert", "/tls/ca.pem")
    own = ("--tlscert", "/tls/cert.pem", "--tlskey", "/tls/key.pem")
    assert "Server:" in ask("tcp://docker:2376", *verified, *own)
    assert "certificate required" in ask("tcp://docker:2376", *verified)
    assert "Server:" not in ask("tcp://docker:2376")
    assert "Server:" not in ask("tcp://docker:2375")
    assert builder.inside("gateway", "test", "-e", "/tls/ca-key.pem").returncode == 1

    builder.settings["keepCache"] = False
    builder.up()
    builder.ssh_end()
    passed(builder.pulumi("destroy"))
    assert run("docker", "volume", "inspect", builder.container("cache")).returncode != 0
