"""What somebody changes by hand on the host is told, and mended."""

from __future__ import annotations

import json
import re

from tests.engine.conftest import DAEMON_IMAGE, GATEWAY_IMAGE, ROOT, Builder, passed, run, until

OWNER = "docker-build-machine.owner"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA8mWEwgv2hCdQZQ3R4lVxxO1OVbpL5tzTDMVQGDzXmV eve"


def drift(builder: Builder, *options: str) -> tuple[int, str]:
    said = run(
        "python",
        "-m",
        "review",
        "drift",
        "--stack",
        builder.stack,
        *options,
        "--config-file",
        str(builder.folder / "config.yaml"),
        env=builder.env,
        cwd=ROOT,
    )
    assert not said.stderr, said.stderr
    return said.returncode, said.stdout


def inside(builder: Builder, role: str, script: str, user: str = "0") -> str:
    container = builder.container(role)
    return passed(run("docker", "exec", "--user", user, container, "sh", "-euc", script))


def tamper(builder: Builder) -> dict[str, str]:
    """Change one of everything; returns the sentences that drift has to say."""
    inside(builder, "gateway", "echo '# eve' >>/usr/local/lib/gateway/dial")
    inside(builder, "gateway", "sed -i 's/^PermitTTY no/PermitTTY yes/' /config/sshd/sshd_config")
    inside(
        builder,
        "gateway",
        "cd /config/ssh_host_keys && rm ssh_host_ed25519_key* && "
        "ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key",
    )
    inside(builder, "daemon", "chmod 0777 /usr/local/sbin/runc")
    # dockerd takes the file up anew, and then the file is as before.
    file = "/etc/docker-build-machine/daemon.json"
    registries = '"insecure-registries": ["eve.example"],'
    inside(builder, "daemon", f"cp -p {file} /tmp/kept && sed -i '2i {registries}' {file}")
    inside(builder, "daemon", "kill -HUP $(pidof dockerd)", user="1000")
    assert until(lambda: "eve.example" in builder.in_daemon("docker", "info").stdout)
    inside(builder, "daemon", f"cat /tmp/kept >{file}")
    passed(
        run(
            "docker", "update", "--memory", "3g", "--memory-swap", "3g", builder.container("daemon")
        )
    )
    passed(
        run(
            "docker",
            "run",
            "--rm",
            "--volume",
            f"{builder.container('access')}:/access",
            "--entrypoint",
            "sh",
            GATEWAY_IMAGE,
            "-c",
            f"echo '{KEY}' >>/access/authorized_keys",
        )
    )
    owner = f"docker-build-machine/{builder.stack}/builder"
    janitor, stranger = builder.container("janitor"), builder.container("stranger")
    passed(run("docker", "rm", "--force", "--volumes", janitor))
    for name, *options in ((janitor, "--env", "EVE=secret"), (stranger,)):
        passed(
            run(
                "docker",
                "run",
                "--detach",
                "--name",
                name,
                "--label",
                f"{OWNER}={owner}",
                "--label",
                "eve=1",
                *options,
                "--entrypoint",
                "sleep",
                DAEMON_IMAGE,
                "600",
            )
        )
    return {
        "an uploaded file": "`builder-gateway` /usr/local/lib/gateway/dial differs: sha256 ",
        "sshd's configuration": "`builder-gateway` sshd's permittty is yes, meant is no",
        "the host key": "`builder-gateway` the host key that sshd has is not the stack's: sha256 ",
        "a file's mode": "`builder-daemon` /usr/local/sbin/runc has mode 0777 and owner 0, 0755 ",
        "dockerd's configuration": "`builder-daemon` dockerd's insecure registries: eve.example, "
        "meant is none",
        "a limit": "`builder-daemon` memory differs",
        "the authorized keys": "`builder-keys` /access/authorized_keys differs: sha256 ",
        "a container made by hand": "`builder-janitor` was made anew by somebody else",
        "the environment": "`builder-janitor` its environment differs: DOCKER_CONFIG, "
        "DOCKER_HOST, EVE, JANITOR_",
        "the labels": "`builder-janitor` its labels differ",
        "a container with our label": f"`builder` has a container {stranger} that Pulumi does not",
    }


def test_a_fresh_builder_has_no_drift_and_every_input_is_compared(builder: Builder) -> None:
    code, said = drift(builder)
    assert (code, said.splitlines()[-2:]) == (0, ["The host is as the stack says.", ""])
    with_env = run(
        "python",
        "-c",
        """if 1:
        import sys
        from review.drift import not_compared
        from review.state import builders_of
        for state in builders_of(sys.argv[1]):
            for container in state.containers.values():
                print(*not_compared(container))""",
        builder.stack,
        env=builder.env,
        cwd=ROOT,
    )
    assert passed(with_env).split() == []


def test_everything_that_is_changed_by_hand_is_told_and_mended(builder: Builder) -> None:
    known = builder.output("knownHosts")
    sentences = tamper(builder)
    # The daemon's image asks for two volumes without a name.
    by_hand = ("docker", "inspect", builder.container("stranger"), builder.container("janitor"))
    mounts = [mount for made in json.loads(passed(run(*by_hand))) for mount in made["Mounts"]]
    assert len(mounts) == 4
    code, said = drift(builder)
    assert code == 1
    for what, sentence in sentences.items():
        assert f"- {sentence}" in said, (what, said)
    told = {re.match("- `[a-z-]+`", line)[0] for line in said.splitlines() if line[:2] == "- "}  # type: ignore[index]
    assert told == {sentence.split(" ")[0].join(["- ", ""]) for sentence in sentences.values()}
    assert "EVE=" not in said
    assert "PRIVATE KEY" not in said
    assert "--replace" in said
    mended = drift(builder, "--fix")
    assert mended[0] == 0, mended
    assert drift(builder)[0] == 0
    assert builder.output("knownHosts") == known
    assert until(lambda: "200 OK" in builder.ping().stdout)
    assert "unchanged" in builder.up("--expect-no-changes")
    gone = run("docker", "inspect", builder.container("stranger"))
    assert gone.returncode != 0
    for mount in mounts:
        assert run("docker", "volume", "inspect", mount["Name"]).returncode != 0


def test_what_is_stopped_or_gone_is_told_and_mended(builder: Builder) -> None:
    passed(run("docker", "stop", builder.container("janitor")))
    passed(run("docker", "rm", "--force", "--volumes", builder.container("gateway")))
    code, said = drift(builder)
    assert code == 1
    assert {line for line in said.splitlines() if line.startswith("- ")} == {
        "- `builder-janitor` is stopped",
        "- `builder-gateway` is gone",
    }
    assert drift(builder, "--fix")[0] == 0
    assert drift(builder)[0] == 0


def test_a_host_that_does_not_answer_is_no_drift(builder: Builder) -> None:
    said = run(
        "python",
        "-c",
        """if 1:
        from components.docker_host import DockerHost
        from review.host import HostReader
        HostReader(DockerHost("unix:///nowhere.sock")).said("version")""",
        cwd=ROOT,
    )
    assert "docker version on unix:///nowhere.sock failed" in said.stderr
