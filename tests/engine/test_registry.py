"""The stack's own registry: access, warm starts of new hosts, and removal of old data."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.registry.certificates import blocks
from tests.engine.conftest import (
    BASE_IMAGE,
    BUILDKIT_IMAGE,
    GUARD_IMAGE,
    REGISTRY_IMAGE,
    ROOT,
    Result,
    bridge_address,
    docker_config,
    free_port,
    logs,
    passed,
    run,
    run_inside,
    until,
)
from tests.engine.figures import record
from tests.engine.hosts import hosts_in
from tests.engine.laptop import Laptop, write_kit
from tests.engine.processes import command_lines
from tests.engine.test_fleet import Fleet, entry
from tests.engine.upstream import USER, Gate, gate_before

IMAGES = {
    "base:1": BASE_IMAGE,
    "python:1": GUARD_IMAGE,
    "buildkit:1": BUILDKIT_IMAGE,
    "hello-world:latest": BASE_IMAGE,
}
# Some seconds of real work.
DOCKERFILE = """\
FROM base:1 AS compiled
RUN i=0; while [ $i -lt 1000000 ]; do i=$((i + 1)); done; echo $i >/first
RUN dd if=/dev/urandom of=/second bs=1M count=8 2>/dev/null && sha256sum /second >/sum
"""
STAGES = f"{DOCKERFILE}FROM base:1\nCOPY --from=compiled /sum /\nRUN cat /sum\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# Blobs have five seconds of grace.
SHORT = {"age": "40s", "size": "30MB"}
BLOB_BYTES = 12_000_000


@dataclass
class Upstream:
    """A registry as the mirror's source, with IMAGES in its library/."""

    container: str
    url: str


@dataclass
class Api:
    """Store or mirror, as an HTTP client meets it."""

    server: str
    context: ssl.SSLContext

    @classmethod
    def of(cls, server: str, ca: str, *certificate: str, folder: Path) -> Api:
        """With a certificate and its key, or without."""
        context = ssl.create_default_context(cadata=ca)
        if certificate:
            (folder / "pem").write_text("".join(certificate))
            context.load_cert_chain(folder / "pem")
        return cls(server, context)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "") -> tuple[int, Any]:
        """Return the status, and the Location header or else the body."""
        connection = http.client.HTTPSConnection(self.server, context=self.context, timeout=30)
        try:
            headers = {"Content-Type": kind} if kind else {"Accept": f"{MANIFEST}, {INDEX}"}
            connection.request(method, path.removeprefix(f"https://{self.server}"), body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Location") or answer.read()
        finally:
            connection.close()

    def push_blob(self, name: str, content: bytes, seconds: float = 0) -> str:
        """Its digest; with `seconds`, in ten parts over that time."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        status, place = self.ask("POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202
        step = len(content) // 10 + 1
        for start in range(0, len(content), step):
            status, place = self.ask(
                "PATCH", place, content[start : start + step], "application/octet-stream"
            )
            assert status == 202
            time.sleep(seconds / 10)
        assert self.ask("PUT", f"{place}&digest={digest}")[0] == 201
        return digest

    def push_manifest(self, name: str, tag: str, media: str, **about: Any) -> tuple[int, str]:
        """Status and digest."""
        text = json.dumps({"schemaVersion": 2, "mediaType": media, **about}).encode()
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        return self.ask("PUT", f"/v2/{name}/manifests/{tag}", text, media)[0], digest

    def push(self, name: str, tag: str, *layers: str) -> str:
        """An image of layers that are there; its digest."""
        config = self.push_blob(name, json.dumps({"os": "linux", "of": tag}).encode())
        form = "application/vnd.oci.image"
        status, digest = self.push_manifest(
            name,
            tag,
            MANIFEST,
            config={"mediaType": f"{form}.config.v1+json", "digest": config, "size": 1},
            layers=[
                {"mediaType": f"{form}.layer.v1.tar", "digest": layer, "size": 1}
                for layer in layers
            ],
        )
        assert status == 201, status
        return digest

    def has(self, name: str, what: str) -> bool:
        """Whether the repository has it: manifests/TAG or blobs/DIGEST."""
        return self.ask("HEAD", f"/v2/{name}/{what}")[0] == 200


@dataclass
class Pair(Fleet):
    """Two hosts, the first of them with the registry."""

    seen: dict[str, str] = field(default_factory=dict)
    """The command lines and the output of the first deployment."""

    def docker_on(self, name: str, *arguments: str, **options: Any) -> Result:
        """docker as a client of the builder on this host."""
        host = {"DOCKER_HOST": f"ssh://{self.alias_on(name)}"}
        return run("docker", *arguments, env={**self.docker_env(), **host}, **options)

    def secret(self) -> dict[str, str]:
        """The stack's secret export for clients of the registry."""
        return dict(
            json.loads(
                passed(
                    self._pulumi(
                        "stack",
                        "output",
                        "registryClient",
                        "--json",
                        "--show-secrets",
                        "--stack",
                        self.stack,
                    )
                )
            )
        )

    def api(self, server: str, folder: Path) -> Api:
        """The store or the mirror, asked with the stack's client certificate."""
        client = self.secret()
        given = (client["certificate"], client["key"])
        return Api.of(client[server], client["ca"], *given, folder=folder)

    def registry(self, role: str) -> str:
        return f"{self.stack}-registry-{role}"

    def log(self, role: str) -> str:
        return logs(self.registry(role))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One of this machine that its containers reach, and of no builder's own bridge."""
    network = passed(run("docker", "network", "create", f"test{secrets.token_hex(3)}")).strip()
    yield bridge_address(network)
    run("docker", "network", "rm", network)


@pytest.fixture(scope="module")
def upstream(address: str) -> Iterator[Upstream]:
    port = free_port()
    container = passed(
        run(
            "docker",
            "run",
            "--detach",
            "--publish",
            f"{address}:{port}:5000",
            "--publish",
            f"127.0.0.1:{port}:5000",
            REGISTRY_IMAGE,
        )
    ).strip()
    try:
        for name, image in IMAGES.items():
            if run("docker", "image", "inspect", image).returncode:
                passed(run("docker", "pull", image))
            pushed = f"127.0.0.1:{port}/library/{name}"
            passed(run("docker", "tag", image, pushed))
            assert until(lambda: run("docker", "push", pushed).returncode == 0)  # noqa: B023
            passed(run("docker", "rmi", pushed))
        yield Upstream(container, f"http://{address}:{port}")
    finally:
        run("docker", "rm", "--force", "--volumes", container)


@pytest.fixture(scope="module")
def gate(address: str, upstream: Upstream) -> Iterator[Gate]:
    """A proxy in front of the upstream that requires a login."""
    with gate_before(upstream.url.removeprefix("http://"), address, secrets.token_hex(20)) as gate:
        yield gate


@pytest.fixture(scope="module")
def stack(address: str, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Deployed with private networks blocked; the registry stays reachable.

    Its mirrors log in at their upstream. The registry of the second mirror has a name that nobody
    can resolve, so its images come by the mirror or not at all.
    """
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        pair = {name: hosts.new("--device", "/dev/net/tun") for name in ("one", "two")}
        stack = Pair.create(
            tmp_path_factory.mktemp("registry") / "s",
            hosts=[entry(name, host.settings) for name, host in pair.items()],
            buildkitImage="buildkit:1",
            drainTime="2s",
            privateNetworks="block",
            registryImage=REGISTRY_IMAGE,
            registry={
                "host": "one",
                "name": address,
                "address": address,
                "port": free_port(),
                "mirrorPort": free_port(),
                "upstream": gate.url,
                "mirrors": [
                    {
                        "registry": "other.example",
                        "port": free_port(),
                        "upstream": gate.url,
                        "check": "library/tool",
                    }
                ],
            },
        )
        stack.env["SSH_AUTH_SOCK"] = hosts.agent
        log_in(stack, gate.token)
        try:
            with command_lines() as lines:
                first = stack.update()
            stack.seen["command lines"] = "\n".join(lines)
            stack.seen["first up"] = passed(first) + first.stderr
            yield stack
        finally:
            stack.clear_away()


def log_in(stack: Pair, token: str) -> None:
    """Give both mirrors this login."""
    login = {"user": USER, "token": stack.encrypted(token)}
    registry = stack.settings["registry"]
    mirrors = [{**mirror, **login} for mirror in registry["mirrors"]]
    stack.settings["registry"] = {**registry, **login, "mirrors": mirrors}


def test_a_second_up_changes_nothing_and_no_secret_is_shown(stack: Pair, gate: Gate) -> None:
    shown = passed(stack.pulumi("up", "--expect-no-changes"))
    assert "unchanged" in shown
    drift = stack.review("drift")
    assert drift.returncode == 0, drift.stdout + drift.stderr
    page = stack.review("preview")
    assert page.returncode == 0, page.stdout + page.stderr
    assert "#### registry" in page.stdout
    assert stack.exports()["registry"] == stack.secret()["store"]

    line = stack.secret()["key"].splitlines()[1]
    key = "/etc/docker-build-machine/registry/server.key"
    server = passed(run_inside(stack.registry("store"), "cat", key))
    mirrors = [stack.registry("mirror"), stack.registry("mirror-other-example")]
    for mirror in mirrors:
        config = "/etc/docker-build-machine/registry/config.json"
        assert gate.token in passed(run_inside(mirror, "cat", config))
        assert passed(run_inside(mirror, "stat", "-c%a", config)).strip() == "600"
    places = {
        **stack.seen,
        "up": shown,
        "preview --diff": passed(stack.pulumi("preview", "--diff", "--json")),
        "configuration": (stack.folder / "config.yaml").read_text(),
        "drift": drift.stdout,
        "preview": page.stdout,
        "outputs": json.dumps(stack.exports()),
        "state": stack.state(),
        "store's log": stack.log("store"),
        "mirrors' logs": "".join(logs(mirror) for mirror in mirrors),
        "inspect": passed(
            run(
                "docker",
                "inspect",
                stack.registry("store"),
                *mirrors,
                f"{stack.alias_on('one')}-daemon",
            )
        ),
    }
    keys = (line, server.splitlines()[1], gate.token)
    assert not [place for place, text in places.items() if any(key in text for key in keys)]


def test_access_needs_the_stacks_certificate(stack: Pair, tmp_path: Path) -> None:
    made = passed(run("sh", str(ROOT / "components/registry/certificates.sh"), input="x\n1\n"))
    foreign = blocks(made)[3:]
    for server in ("store", "mirror"):
        place, ca = stack.secret()[server], stack.secret()["ca"]
        assert stack.api(server, tmp_path).ask("GET", "/v2/")[0] == 200
        for certificate in ([], foreign):
            for request in (("GET", "/v2/"), ("POST", "/v2/app/blobs/uploads/")):
                with pytest.raises(OSError, match=r"alert|reset|EOF"):
                    Api.of(place, ca, *certificate, folder=tmp_path).ask(*request)
    # This machine's own dockerd is none of the stack's.
    store = stack.exports()["registry"]
    passed(run("docker", "tag", BASE_IMAGE, f"{store}/app:1"))
    assert run("docker", "push", f"{store}/app:1").returncode != 0
    passed(run("docker", "rmi", f"{store}/app:1"))


OPEN = (
    "import ssl, sys, urllib.request; "
    "urllib.request.urlopen(sys.argv[1], context=ssl._create_unverified_context())"
)


def test_a_build_step_reaches_neither_the_registry_nor_its_key(
    stack: Pair, upstream: Upstream
) -> None:
    store = stack.exports()["registry"]
    dockerfile = (
        "FROM python:1\n"
        f"ENV OPEN='{OPEN}'\n"
        f'RUN ! timeout 9 python3 -c "$OPEN" https://{store}/v2/ 2>/errors; cat /errors\n'
        f'RUN ! timeout 9 python3 -c "$OPEN" {upstream.url}/v2/ 2>/errors; cat /errors\n'
        "RUN find / -xdev -name client.key -o -xdev -name certs.d | sed 's/^/found: /'\n"
    )
    built = stack.docker_on("one", "build", "--progress=plain", "-", input=dockerfile)
    passed(built)
    output = built.stdout + built.stderr
    assert "certificate" in output.split(f"https://{store}/v2/ ")[-1]
    assert "found: " not in output.replace("'s/^/found: /'", "")


def test_a_new_host_starts_warm(stack: Pair) -> None:
    store = stack.exports()["registry"]
    seconds, output = {}, {}
    for name in ("one", "two"):
        start = time.monotonic()
        built = stack.docker_on(
            name,
            "build",
            "--progress=plain",
            "--build-arg",
            "BUILDKIT_INLINE_CACHE=1",
            "--cache-from",
            f"{store}/app:1",
            "--tag",
            f"{store}/app:1",
            "-",
            input=DOCKERFILE,
        )
        seconds[name] = time.monotonic() - start
        passed(built)
        output[name] = built.stdout + built.stderr
        passed(stack.docker_on(name, "push", f"{store}/app:1"))
    assert "CACHED" not in output["one"]
    assert output["two"].count("CACHED") == 2
    for what, name in (("without", "one"), ("with", "two")):
        record(
            f"first build on a new host, {what} the registry's cache",
            1,
            document="scale",
            seconds=seconds[name],
        )
    assert seconds["two"] < seconds["one"] / 2


@dataclass
class Node:
    """A client with buildx, which the test's fleet is made with."""

    env: dict[str, str]

    @classmethod
    def of(cls, stack: Pair, folder: Path) -> Node:
        return cls({"PATH": stack.path, "DOCKER_CONFIG": str(docker_config(folder / "docker"))})

    def build(self, stack: Pair, *options: str) -> str:
        """Build STAGES on the host two; returns the progress."""
        result = run(
            "docker",
            "buildx",
            "build",
            "--builder",
            stack.stack,
            "--progress=plain",
            "--platform",
            "linux/386",
            *options,
            "-",
            input=STAGES,
            env=self.env,
        )
        passed(result)
        return result.stdout + result.stderr


def test_a_multi_platform_builder_keeps_all_its_cache_in_the_store(
    stack: Pair, tmp_path: Path
) -> None:
    """Its certificates are shown nowhere, and its nodes pull their image through the mirror."""
    node = Node.of(stack, tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with command_lines() as seen:
        made = stack.client("fleet", "--create", env={**node.env, "TMPDIR": str(temporary)})
    line = stack.secret()["key"].splitlines()[1]
    assert not [text for text in (*seen, passed(made), made.stderr) if line in text]
    assert not list(temporary.iterdir())
    kept = tmp_path / "docker" / "buildx" / "instances" / stack.stack
    assert kept.stat().st_mode & 0o077 == 0

    cache = f"type=registry,ref={stack.exports()['registry']}/cache:stages"
    assert "CACHED" not in node.build(stack, "--cache-to", f"{cache},mode=max")
    passed(
        run("docker", "buildx", "prune", "--builder", stack.stack, "--all", "--force", env=node.env)
    )
    warm = node.build(stack, "--cache-from", cache)
    assert warm.count("CACHED") == 4, warm
    passed(run("docker", "buildx", "rm", stack.stack, env=node.env))


def test_images_of_another_registry_come_through_its_mirror(stack: Pair, gate: Gate) -> None:
    gate.served.clear()
    dockerfile = "FROM other.example/library/base:1\nRUN echo by the mirror\n"
    passed(stack.docker_on("one", "build", "--no-cache", "-", input=dockerfile))
    assert "/v2/library/base/manifests/1" in gate.served
    # dockerd's own client, which pulls with overlay2, knows mirrors of Docker Hub only.
    pulled = stack.docker_on("one", "pull", "other.example/library/base:1")
    assert pulled.returncode != 0
    assert "other.example" in pulled.stderr
    registry = stack.settings["registry"]
    mirror = f"{registry['name']}:{registry['mirrors'][0]['port']}"
    passed(stack.docker_on("one", "pull", f"{mirror}/library/base:1"))


def test_a_failing_upstream_is_reported(stack: Pair, gate: Gate) -> None:
    good, wrong = gate.token, secrets.token_hex(20)
    log_in(stack, wrong)
    page = stack.review("preview")
    assert "#### registry" in passed(page)
    refused = stack.update()
    assert refused.returncode != 0
    output = refused.stdout + refused.stderr
    assert f"the upstream of {stack.registry('mirror')} refuses its login" in output
    assert "incorrect username or password" in output
    assert not [
        token for token in (good, wrong) if token in output + page.stdout + stack.log("mirror")
    ]
    log_in(stack, good)
    passed(stack.update())

    def verdict() -> str:
        script = "/usr/local/lib/registry/upstream"
        mirror = stack.registry("mirror")
        return passed(run_inside(mirror, "sh", script, "library/base")).strip()

    assert verdict() == "ok"
    with Laptop.started(stack, "laptop") as laptop:
        laptop.put_key(stack)
        passed(laptop.install(write_kit(stack)))

        def told() -> tuple[str, str]:
            doctor = laptop.builder("doctor", stack.alias_on("two"), "--json")
            findings = json.loads(doctor.stdout)["findings"]
            (found,) = [f for f in findings if f["check"] == "mirror"]
            return found["status"], found["found"]

        gate.limited = True
        try:
            assert verdict().startswith("limited toomanyrequests")
            status, found = told()
            # Releases of the registry before 3.1.2 do not pass on what the upstream says.
            assert status == "warning"
            assert "so builds pull past it" in found
        finally:
            gate.limited = False
        assert told()[0] == "ok", told()
        passed(run("docker", "stop", stack.registry("mirror")))
        try:
            assert told()[0] == "warning"
        finally:
            passed(run("docker", "start", stack.registry("mirror")))


def test_the_mirror_serves_what_it_has_while_its_upstream_is_away(
    stack: Pair, upstream: Upstream
) -> None:
    passed(run("docker", "stop", "--time", "1", upstream.container))
    try:
        passed(stack.docker_on("two", "image", "rm", "--force", "base:1"))
        passed(stack.docker_on("two", "builder", "prune", "--all", "--force"))
        passed(stack.docker_on("two", "pull", "base:1"))
        passed(stack.docker_on("two", "build", "-", input="FROM base:1\nRUN echo again\n"))
        # A store that is away costs the cache alone.
        passed(run("docker", "stop", stack.registry("store")))
        cache = f"{stack.exports()['registry']}/app:1"
        passed(stack.docker_on("two", "build", "--cache-from", cache, "-", input=DOCKERFILE))
    finally:
        passed(run("docker", "start", upstream.container, stack.registry("store")))


def test_untagged_data_is_removed_and_running_pushes_are_not_cut(
    stack: Pair, tmp_path: Path
) -> None:
    before = stack.api("store", tmp_path)
    stack.settings["registry"] = {**stack.settings["registry"], **SHORT, "certificates": 2}
    passed(stack.update())
    with pytest.raises(OSError, match=r"alert|reset|EOF|verify"):
        before.ask("GET", "/v2/")
    store = stack.api("store", tmp_path)
    name = stack.exports()["registry"]
    passed(stack.docker_on("two", "pull", "base:1"))
    passed(stack.docker_on("two", "tag", "base:1", f"{name}/base:1"))
    passed(stack.docker_on("two", "push", f"{name}/base:1"))

    def used() -> int:
        result = run_inside(stack.registry("store"), "du", "-sk", "/var/lib/registry")
        return int(result.stdout.split()[0])

    def stored(digest: str) -> bool:
        """Whether the blob is there, without asking the store, which would keep it."""
        place = f"docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}"
        test = ("test", "-e", f"/var/lib/registry/{place}")
        return run_inside(stack.registry("store"), *test).returncode == 0

    # Four images of 12 MB, where 30 MB may stay; the last with an index of two platforms beside it.
    layers = [store.push_blob("app", os.urandom(BLOB_BYTES)) for _ in range(4)]
    for number, layer in enumerate(layers):
        store.push("app", f"v{number}", layer)
        time.sleep(1)
    child = store.push("app", "child", store.push_blob("app", b"of one platform"))
    index = [{"mediaType": MANIFEST, "digest": child, "size": 1}]

    def keep() -> None:
        """Push again the images that must stay, as a CI does."""
        store.push("app", "v3", layers[3])
        assert store.push_manifest("app", "many", INDEX, manifests=index)[0] == 201

    keep()
    # A slow push, through all the clearing away.
    slow = store.push_blob("slow", os.urandom(BLOB_BYTES // 4), seconds=15)
    assert until(lambda: "by size: removed" in stack.log("store"), 30)
    assert store.ask("HEAD", f"/v2/slow/blobs/{slow}")[0] == 200
    store.push("slow", "1", slow)
    assert store.has("slow", "manifests/1")
    assert used() * 1024 < 30e6 + BLOB_BYTES / 4
    assert not stored(layers[0])
    assert stored(layers[3])

    def gone() -> bool:
        keep()
        time.sleep(1)
        return not stored(layers[2]) and not store.has("app", "manifests/child")

    # By then each of the tags that stay would have gone too, were they not pushed again.
    assert until(gone, 80), stack.log("store")
    for kept in ("manifests/v3", "manifests/many", f"manifests/{child}", f"blobs/{layers[3]}"):
        assert store.has("app", kept), (kept, stack.log("store"))
    for lost in ("manifests/v0", "manifests/v2", "manifests/child"):
        assert not store.has("app", lost), lost


def test_pulls_with_containerds_store_use_every_mirror(stack: Pair, gate: Gate) -> None:
    stack.settings["imageStore"] = "containerd"
    passed(stack.update())
    for image in ("base:1", "other.example/library/base:1"):
        gate.served.clear()
        passed(stack.docker_on("one", "pull", image))
        assert "/v2/library/base/manifests/1" in gate.served, image
    passed(stack.docker_on("one", "image", "rm", "base:1", "other.example/library/base:1"))
    passed(stack.docker_on("one", "builder", "prune", "--all", "--force"))
    gate.served.clear()
    dockerfile = "FROM other.example/library/base:1\nRUN echo by the mirror\n"
    passed(stack.docker_on("one", "build", "--no-cache", "-", input=dockerfile))
    assert "/v2/library/base/manifests/1" in gate.served
    passed(stack.docker_on("one", "run", "--rm", "other.example/library/python:1", "true"))
