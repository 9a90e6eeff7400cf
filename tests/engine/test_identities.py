"""Jobs that log in with a token of their CI, on a real builder and with a real issuer."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.verifier.program.enrolled import PublicKey
from components.verifier.program.openssl import ALGORITHMS
from components.verifier.program.tokens import bound
from tests.engine.conftest import (
    Builder,
    NewBuilder,
    Result,
    bridge_address,
    logs,
    make_key,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record
from tests.engine.test_access import on_access_volume
from tests.issuer import CLAIMS, Issuer, issuing, new_key

AUDIENCE = "builder.example.com"
MAIN = {"repository": "acme/app", "ref": "refs/heads/main"}
JOB = "repository=acme/app ref=refs/heads/main run=1658821493"
JOBS = 200 if LONG else 20


@dataclass
class Keyless:
    """A builder with identities, and the issuer of their tokens."""

    builder: Builder
    issuer: Issuer

    def rule(self, name: str, claims: dict[str, str], **fields: Any) -> dict[str, Any]:
        return {
            "name": name,
            "issuer": self.issuer.url,
            "audience": AUDIENCE,
            "claims": claims,
            "issuerCa": self.issuer.ca,
            **fields,
        }

    def key(self, name: str) -> Path:
        """A new key of a job."""
        make_key(self.builder.folder / name)
        return self.builder.folder / name

    def token(self, key: Path, **claims: Any) -> str:
        """A token of a job on main that is bound to the key."""
        line = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        audience = bound(AUDIENCE, PublicKey.parse(line).fingerprint)
        return self.issuer.token(audience, **{**CLAIMS["github"], **claims})

    def as_token(self, key: str, *options: str, **streams: Any) -> Result:
        """Run ssh as the user token."""
        command = self.builder.ssh_command(key)
        return run(*command, "-T", "-l", "token", *options, self.builder.alias, **streams)

    def let_in(self, name: str, **claims: Any) -> Path:
        """A new key that a token has let in."""
        key = self.key(name)
        passed(self.as_token(name, input=self.token(key, **claims)))
        return key

    def verifier_log(self) -> str:
        return logs(self.builder.container("verifier"))

    def in_gateway(self, *command: str) -> Result:
        return self.builder.inside("gateway", *command)


@pytest.fixture(scope="module")
def keyless(new_builder: NewBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyless]:
    with issuing(tmp_path_factory.mktemp("issuer"), bridge_address()) as issuer:
        issuer.keys = {name: new_key(name) for name in reversed(ALGORITHMS)}
        keyless = Keyless(new_builder(), issuer)
        keyless.builder.settings["identities"] = [
            keyless.rule("main", MAIN),
            keyless.rule("release", {"repository": "acme/app", "ref": "refs/tags/*"}, role="admin"),
        ]
        keyless.builder.up()
        yield keyless


def test_a_job_logs_in_with_its_token_and_the_log_names_it(keyless: Keyless) -> None:
    builder, key = keyless.builder, keyless.key("job")
    assert builder.refuses("job")
    answer = passed(keyless.as_token("job", input=keyless.token(key)))
    assert answer.startswith("accepted main 20")
    assert "200 OK" in builder.ping(key="job").stdout
    for algorithm, signing in keyless.issuer.keys.items():
        token = keyless.issuer.token(
            AUDIENCE, key=signing, headers={"kid": algorithm}, **CLAIMS["github"]
        )
        assert passed(keyless.as_token("job", input=token)).startswith("accepted main 20")
    label = f"login name=main role=build {JOB} key=SHA256:"
    assert until(lambda: any(label in line for line in builder.audit()))
    with builder.connection(key="job"):
        assert until(lambda: label in builder.who())
    assert f"accepted name=main {JOB} key=SHA256:" in keyless.verifier_log()
    # The rule's role.
    request = "POST /containers/create HTTP/1.0\r\n\r\n"
    assert "a key of role build may" in builder.ssh(builder.alias, key="job", input=request).stdout
    keyless.let_in("tag", ref="refs/tags/v1")
    request = "GET /containers/json HTTP/1.0\r\n\r\n"
    assert "200 OK" in builder.ssh(builder.alias, key="tag", input=request).stdout
    assert until(
        lambda: any("login name=release repository=acme/app" in line for line in builder.audit())
    )
    with builder.connection(key="job"):
        shown = json.loads(passed(builder.client("status", "--json")))["identities"]
    uses = {use["name"]: (use["role"], use["connected"], use["issuer"]) for use in shown}
    url = keyless.issuer.url
    assert uses == {"main": ("build", 1, url), "release": ("admin", 0, url)}
    assert all(use["last_login"] for use in shown)


def test_the_files_of_a_ci_ask_for_the_audience_of_the_stack(keyless: Keyless) -> None:
    written = passed(keyless.builder.client("ci", "github", "--keyless"))
    assert f"builder_audience='{AUDIENCE}'" in written
    assert "id-token: write" in written


def test_a_wrong_token_is_refused_and_never_logged(keyless: Keyless) -> None:
    builder, key = keyless.builder, keyless.key("stranger")
    other = keyless.key("other")
    wrong = {
        "no rule fits": keyless.token(key, repository="acme/other"),
        "is not valid": keyless.issuer.token(AUDIENCE, key=new_key(), **CLAIMS["github"]),
        "has expired": keyless.token(key, exp=int(time.time()) - 100),
        "another key": keyless.token(other),
        "another audience": keyless.issuer.token("elsewhere", **CLAIMS["github"]),
        "not a token": "eyJhbGciOiJub25lIn0.e30.",
    }
    for reason, token in wrong.items():
        refused = keyless.as_token("stranger", input=token)
        assert refused.returncode == 1
        assert reason in refused.stderr
        assert builder.refuses("stranger")
    # A token that is not bound to a key is good for one key.
    token = keyless.issuer.token(AUDIENCE, **CLAIMS["github"])
    passed(keyless.as_token("other", input=token))
    passed(keyless.as_token("other", input=token))
    assert "used for another key" in keyless.as_token("stranger", input=token).stderr
    passed(run("docker", "restart", builder.container("verifier")))
    assert until(lambda: "200 OK" in builder.ping(key="other").stdout)
    # The verifier listens when it has asked the issuer.
    assert until(
        lambda: "used for another key" in keyless.as_token("stranger", input=token).stderr, 30
    )
    everything = logs(builder.container("gateway")) + keyless.verifier_log()
    for sent in (*wrong.values(), token):
        assert not any(part in everything for part in sent.split(".") if len(part) > 20)
    assert 'reason="no rule fits what the token says of the job"' in everything
    assert "repository=acme/other" in everything


def test_a_token_is_in_no_argument_and_no_environment(keyless: Keyless) -> None:
    """Of any process on this machine, which sees into all containers."""
    builder, key = keyless.builder, keyless.key("shy")
    token = keyless.token(key)
    command = (*builder.ssh_command("shy"), "-T", "-l", "token", builder.alias)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdin
        assert job.stdout
        job.stdin.write(token)
        job.stdin.flush()
        top = ("docker", "top", builder.container("gateway"), "-eo", "pid,args")
        assert until(lambda: "head -c 17000" in run(*top).stdout)
        seen = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it may have ended
                seen += [(process / name).read_bytes() for name in ("cmdline", "environ")]
        job.stdin.close()
        assert job.stdout.read().startswith("accepted main")
    assert any(b"SSH_USER_AUTH=" in text for text in seen)
    # Without the head, which tokens of other tests may have too.
    assert not any(part.encode() in text for part in token.split(".")[1:] for text in seen)


def test_a_client_that_sends_a_token_can_do_nothing_else(keyless: Keyless) -> None:
    builder = keyless.builder
    keyless.key("nosy")
    sessions = ("docker", "top", builder.container("gateway"), "-eo", "pid,args")
    with builder.connection("-l", "token", key="nosy") as idle:
        assert until(lambda: re.search(r"sshd-session[^ ]*: token ", run(*sessions).stdout))
        started = time.monotonic()
        shell = keyless.as_token("nosy", input="id\n")
        assert (shell.returncode, shell.stdout) == (1, "")
        docker = keyless.as_token("nosy", "-T", input="GET /_ping HTTP/1.0\r\n\r\n")
        assert "200 OK" not in docker.stdout
        assert keyless.as_token("nosy", "-W", "127.0.0.1:2222").returncode == 255
        forward = f"{builder.folder}/nosy.sock"
        for socket in ("/run/builder/docker.sock", "/run/builder/guard.sock"):
            with builder.connection("-l", "token", "-L", f"{forward}:{socket}", key="nosy"):
                assert until(lambda: Path(forward).exists())
                ping = run("curl", "--silent", "--unix-socket", forward, "http://x/_ping")
                assert (ping.returncode, ping.stdout) != (0, "OK")
            Path(forward).unlink()
        idle.wait(60)
    assert time.monotonic() - started > 10
    # Another kind of key cannot log in as token, so that nobody gets there with a certificate.
    passed(run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(builder.folder / "ecdsa")))
    assert keyless.as_token("ecdsa").returncode == 255
    assert "user=token" in "\n".join(builder.audit())


def test_a_removed_rule_closes_only_its_own_connections(keyless: Keyless) -> None:
    builder = keyless.builder
    gateway, verifier = builder.container_id("gateway"), builder.container_id("verifier")
    keyless.let_in("leaver")
    keyless.let_in("stayer", ref="refs/tags/v2")
    kept = builder.settings["identities"]
    with builder.connection(key="leaver") as leaver, builder.connection(key="stayer") as stayer:
        assert until(lambda: "name=main" in builder.who() and "name=release" in builder.who())
        builder.settings["identities"] = kept[1:]
        builder.up()
        leaver.wait(10)
        assert stayer.poll() is None
        assert until(
            lambda: any(
                f"closed name=main {JOB} key=SHA256:" in line and line.endswith("reason=removed")
                for line in builder.audit()
            )
        )
        assert builder.refuses("leaver")
        # A rule that has changed is another one.
        builder.settings["identities"] = [kept[0], {**kept[1], "until": "2999-01-01"}]
        builder.up()
        stayer.wait(10)
        builder.settings["identities"] = kept
        builder.up()
    assert (gateway, verifier) == (
        builder.container_id("gateway"),
        builder.container_id("verifier"),
    )
    assert builder.refuses("leaver")
    passed(keyless.as_token("leaver", input=keyless.token(builder.folder / "leaver")))
    assert "200 OK" in builder.ping(key="leaver").stdout


def test_a_rule_expires_without_the_verifier_and_the_gateway_reports_that_it_is_away(
    keyless: Keyless,
) -> None:
    builder = keyless.builder
    keyless.let_in("orphan")
    passed(builder.health("gateway"))
    with builder.connection(key="orphan") as orphan:
        assert until(lambda: "name=main" in builder.who())
        passed(run("docker", "stop", builder.container("verifier")))
        try:
            on_access_volume(builder, "sed -i '/^rule .* main /d' /access/list")
            orphan.wait(10)
            # sshd knows the key still, and the session monitor ends each session.
            assert until(lambda: builder.ping(key="orphan").returncode != 0)
            unhealthy = builder.health("gateway")
            assert unhealthy.returncode == 1
            assert "the verifier does not answer" in unhealthy.stdout
            refused = keyless.as_token("orphan", input=keyless.token(builder.folder / "orphan"))
            assert "cannot check tokens now" in refused.stderr
        finally:
            passed(run("docker", "start", builder.container("verifier")))
    found = builder.review("drift")
    assert "/access/list is sha256" in found.stdout
    passed(builder.pulumi("up", "--replace", keys_urn(builder)))
    assert until(lambda: builder.health("gateway").returncode == 0, 30)
    assert "The host is as the stack says." in builder.review("drift").stdout


def keys_urn(builder: Builder) -> str:
    """The URN of the container that writes who gets in."""
    kind = "docker-build-machine:index:DockerBuilder$docker:index/container:Container"
    return f"urn:pulumi:{builder.stack}::docker-build-machine::{kind}::builder-keys"


def test_a_preview_shows_the_rule_and_the_health_check_shows_an_issuer_that_does_not_answer(
    keyless: Keyless,
) -> None:
    builder = keyless.builder
    kept = builder.settings["identities"]
    nowhere = {**keyless.rule("nowhere", MAIN), "issuer": "https://127.0.0.1:1"}
    builder.settings["identities"] = [*kept, nowhere]
    try:
        shown = passed(builder.pulumi("preview", "--diff"))
    finally:
        builder.settings["identities"] = kept
    assert "nowhere=https://127.0.0.1:1 audience builder.example.com claims" in shown
    # What `pulumi up` waits for, too.
    passed(builder.health("verifier"))
    issuer = keyless.issuer.url
    on_access_volume(builder, f"sed -i s,{issuer},https://127.0.0.1:1, /access/identities")
    try:
        assert until(lambda: builder.health("verifier").returncode == 1)
        assert "https://127.0.0.1:1: " in builder.health("verifier").stdout
    finally:
        passed(builder.pulumi("up", "--replace", keys_urn(builder)))
    assert until(lambda: builder.health("verifier").returncode == 0, 30)


def test_many_jobs_log_in_at_once(keyless: Keyless) -> None:
    builder = keyless.builder
    names = [f"crowd{number}" for number in range(JOBS)]
    tokens = {name: keyless.token(keyless.key(name)) for name in names}
    commands = {name: builder.ssh_command(name) for name in names}

    def job(name: str) -> tuple[Result, Result, float, float]:
        start = time.monotonic()
        login = (*commands[name], "-T", "-l", "token", builder.alias)
        sent = run(*login, input=tokens[name])
        middle = time.monotonic()
        asked = run(*commands[name], builder.alias, input="GET /_ping HTTP/1.0\r\n\r\n")
        return sent, asked, middle - start, time.monotonic() - middle

    alone = [job(name) for name in names[:5]]
    start = time.monotonic()
    with ThreadPoolExecutor(JOBS) as jobs:
        results = list(jobs.map(job, names))
    seconds = time.monotonic() - start
    refused = [
        sent.stderr + asked.stderr for sent, asked, *_ in results if "200 OK" not in asked.stdout
    ]
    assert not refused
    record(
        "jobs at once, a token and a connection each",
        JOBS,
        refused=len(refused),
        seconds=seconds,
        milliseconds_to_send_a_token=1000 * statistics.median(one[2] for one in alone),
        milliseconds_to_log_in_with_a_key=1000 * statistics.median(one[3] for one in alone),
    )


def test_removing_the_last_rule_removes_everything_of_identities(keyless: Keyless) -> None:
    builder = keyless.builder
    keyless.let_in("last")
    del builder.settings["identities"]
    builder.up()
    assert builder.refuses("last")
    assert keyless.as_token("last", input="x.y.z").returncode == 255
    assert "200 OK" in builder.ping().stdout
    for kind, name in (("container", "verifier"), ("volume", "identities"), ("container", "guard")):
        assert run("docker", kind, "inspect", builder.container(name)).returncode == 1
