"""Keys of role `build` can build, push, pull and read, and do nothing else.

They can also fill the cache that others build from. No setting prevents this; the tests of
secrets, proxies and cache mounts show three ways, and that of a namespace shows that BuildKit's own
means does not close the last one.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import aiodocker
import docker as docker_py
import pytest

from bench.client import put_ssh
from tests.engine.conftest import (
    BASE_IMAGE,
    ROOT,
    Builder,
    NewBuilder,
    Result,
    docker_config,
    passed,
    run,
    until,
)
from tests.engine.laptop import Laptop

REFUSED = "is not allowed: a key of role build may build, pull, push, tag and read"

Docker = Callable[..., Result]


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """With a key of role build, and an authority of that role that signed a key for `job`."""
    ready = new_builder()
    ready.add_key("ci", role="build")
    ready.add_key("ci-ca", role="build", principals=["ci"])
    ready.sign("job", "ci-ca", "ci")
    ready.up()
    ready.load_base()
    return ready


@pytest.fixture(scope="module")
def buildx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client configuration with the buildx of the daemon's image."""
    return docker_config(tmp_path_factory.mktemp("docker"))


def over_ssh(builder: Builder, key: str, config: Path | None = None) -> Docker:
    """docker with this key, over plain DOCKER_HOST=ssh:// and a connection that the key shares."""
    command = builder.ssh_command(key, control=str(builder.folder / f"control-{key}"))
    path = put_ssh(builder.folder / f"bin-{key}", *command[1:])
    return lambda *words, **options: run(
        "docker",
        *words,
        env={
            **builder.docker_env(),
            "PATH": path,
            **({"DOCKER_CONFIG": str(config)} if config else {}),
            **options.pop("env", {}),
        },
        **options,
    )


@pytest.fixture(params=["ci over ssh", "ci forwarded"])
def docker(request: pytest.FixtureRequest, builder: Builder, buildx: Path) -> Iterator[Docker]:
    """docker as each kind of client with the role build uses it."""
    key, _, way = request.param.partition(" ")
    plain = over_ssh(builder, key, buildx)
    if way == "over ssh":
        yield plain
        return
    path = builder.folder / f"{key}.sock"
    path.unlink(missing_ok=True)
    with builder.connection(f"-L{path}:/run/builder/guard.sock", key=key):
        assert until(path.exists)
        yield lambda *words, **options: plain(
            *words, env={"DOCKER_HOST": f"unix://{path}", **options.pop("env", {})}, **options
        )


def test_a_build_key_builds_pushes_pulls_and_reads(
    docker: Docker, registry: str, tmp_path: Path
) -> None:
    context = str(ROOT / "tests" / "engine" / "context")
    tag = f"{registry}/guarded:{secrets.token_hex(4)}"
    build = ("build", "--build-arg", f"BASE={BASE_IMAGE}", "--tag", tag)
    passed(docker(*build, context))
    passed(
        docker(
            *build,
            "--tag",
            tag,
            "-",
            env={"DOCKER_BUILDKIT": "0"},
            input=f"FROM {BASE_IMAGE}\nRUN echo classic >/classic\n",
        )
    )
    for number in (1, 2):
        result = docker(
            "buildx",
            *build,
            "--progress=plain",
            "-",
            input=(
                f"FROM {BASE_IMAGE}\n"
                f"RUN --mount=type=cache,id={tag},target=/c "
                f"echo {number} >>/c/a && wc -l </c/a >/lines\n"
                f"RUN echo {tag}: $(cat /lines)\n"
            ),
        )
        passed(result)
        assert f"{tag}: {number}\n" in result.stderr
    passed(docker("push", tag))
    passed(docker("tag", tag, f"{tag}-other"))
    passed(docker("pull", tag))
    assert tag in passed(docker("inspect", tag))
    for words in (
        ("version",),
        ("info",),
        ("images",),
        ("history", tag),
        ("system", "df"),
        ("ps",),
        ("buildx", "du"),
        ("buildx", "ls"),
    ):
        passed(docker(*words))
    assert "hidden" not in passed(docker("ps", "--no-trunc"))
    archive = tmp_path / "saved.tar"
    passed(docker("save", "--output", str(archive), tag))
    passed(docker("load", "--input", str(archive)))


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--rm", "--privileged", BASE_IMAGE, "id"),
        ("run", "--rm", "--volume", "/:/host", BASE_IMAGE, "id"),
        ("run", "--rm", BASE_IMAGE, "id"),
        ("create", BASE_IMAGE),
        ("exec", "registry", "id"),
        ("attach", "registry"),
        ("cp", "registry:/etc/passwd", "-"),
        ("export", "registry"),
        ("logs", "registry"),
        ("top", "registry"),
        ("container", "inspect", "registry"),
        ("commit", "registry", "stolen"),
        ("stop", "registry"),
        ("rm", "--force", "registry"),
        ("rmi", BASE_IMAGE),
        ("system", "prune", "--force"),
        ("image", "prune", "--force"),
        ("container", "prune", "--force"),
        ("builder", "prune", "--force"),
        ("buildx", "prune", "--force"),
        ("volume", "create", "mine"),
        ("volume", "rm", "any"),
        ("network", "create", "mine"),
        ("swarm", "init"),
        ("plugin", "install", "--grant-all-permissions", "any/plugin"),
        ("build", "--network=host", "{context}"),
        ("buildx", "build", "--network=host", "{context}"),
        ("buildx", "build", "--allow=security.insecure", "{context}"),
        ("build", "--cgroup-parent=/x", "{context}"),
        ("buildx", "build", "--cgroup-parent=/x", "{context}"),
    ],
    ids=" ".join,
)
def test_a_build_key_can_do_nothing_else(
    builder: Builder, registry: str, buildx: Path, command: tuple[str, ...]
) -> None:
    context = str(ROOT / "tests" / "engine" / "context")
    refused = over_ssh(builder, "ci", buildx)(*(word.format(context=context) for word in command))
    assert refused.returncode != 0
    output = refused.stderr + refused.stdout
    # docker has its own error for a container that it cannot find.
    assert REFUSED in output or "No such container: registry" in output


def test_a_classic_build_gets_no_host_network(docker: Docker) -> None:
    refused = docker(
        "build",
        "--network=host",
        "-",
        env={"DOCKER_BUILDKIT": "0"},
        input=f"FROM {BASE_IMAGE}\nRUN id\n",
    )
    assert f"networkmode='host' {REFUSED}" in refused.stderr


def test_buildkit_refuses_a_step_that_requests_the_hosts_network(
    builder: Builder, buildx: Path
) -> None:
    dockerfile = f"FROM {BASE_IMAGE}\nRUN --network=host id\n"
    refused = over_ssh(builder, "ci", buildx)("buildx", "build", "-", input=dockerfile)
    assert "network.host is not allowed" in refused.stderr


@pytest.mark.parametrize(
    ("key", "socket", "opens"),
    [
        ("ada", "docker", True),
        ("ada", "guard", False),
        ("ci", "docker", False),
        ("ci", "guard", True),
        ("job", "docker", False),
        ("job", "guard", True),
    ],
)
def test_each_role_forwards_to_its_own_socket(
    builder: Builder, key: str, socket: str, opens: bool
) -> None:
    path = builder.folder / f"{key}-{socket}.sock"
    with builder.connection(
        "-N", f"-L{path}:/run/builder/{socket}.sock", key=key, stderr=subprocess.PIPE
    ) as tunnel:
        assert until(path.exists)
        answered = run("docker", "--host", f"unix://{path}", "version").returncode == 0
        tunnel.terminate()
        output = tunnel.communicate()[1]
    assert answered == opens
    assert ("open failed" in output) == (not opens)


OTHER_COMMAND = "BUILDER_SOCKET=docker.sock sh /usr/local/lib/gateway/dial /run/builder/docker.sock"
RUN_PRIVILEGED = "POST /containers/create HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ((), "BUILDER_SOCKET=docker.sock docker system dial-stdio"),
        (("-o", "SetEnv=BUILDER_SOCKET=docker.sock"), ""),
        (("-o", "SendEnv=BUILDER_SOCKET"), ""),
        (("-s",), "admin"),
    ],
    ids=["command", "SetEnv", "SendEnv", "subsystem"],
)
@pytest.mark.parametrize("key", ["ci", "job", "forced"])
def test_nothing_that_a_client_sends_changes_its_role(
    builder: Builder, key: str, options: tuple[str, ...], command: str
) -> None:
    """`forced` has a certificate with a forced command and all permissions."""
    if key == "forced":
        builder.sign("forced", "ci-ca", "ci")
        folder = builder.folder
        passed(
            run(
                "ssh-keygen",
                "-q",
                "-s",
                str(folder / "ci-ca"),
                "-I",
                "forced",
                "-n",
                "ci",
                "-V",
                "+5m",
                "-O",
                f"force-command={OTHER_COMMAND}",
                str(folder / "forced.pub"),
            )
        )
    words = [command] if command else []
    answer = builder.ssh(
        *options,
        f"{builder.stack}-builder",
        *words,
        key=key,
        input=RUN_PRIVILEGED,
        env={"BUILDER_SOCKET": "docker.sock"},
    )
    assert answer.stdout == "" or (
        answer.stdout.startswith("HTTP/1.1 403 ") and REFUSED in answer.stdout
    )
    assert answer.stdout or "-s" in options


def test_an_admin_key_has_the_whole_api(builder: Builder) -> None:
    assert "uid=0" in passed(builder.docker("run", "--rm", "--privileged", BASE_IMAGE, "id"))


def test_who_and_log_name_the_role(builder: Builder) -> None:
    expected = (
        "name=ci role=build key=",
        "name=ci-ca role=build certificate=job-1",
        "name=ada key=",
    )
    with builder.connection(key="ci"), builder.connection(key="job"), builder.connection():
        assert until(lambda: all(name in builder.who() for name in expected)), builder.who()
    assert any(" login name=ci role=build key=" in line for line in builder.audit())
    builder.ssh(f"{builder.stack}-builder", key="ci", input=RUN_PRIVILEGED)
    refused = passed(run("docker", "logs", builder.container("guard")))
    assert "refused POST /containers/create" in refused


def made(docker: Docker, folder: Path, step: str, *options: str) -> str:
    """Build a Dockerfile with one step; return the file /made."""
    dockerfile = f"FROM {BASE_IMAGE}\n{step}\nFROM scratch\nCOPY --from=0 /made /\n"
    output = ("--output", f"type=local,dest={folder}")
    passed(docker("buildx", "build", *output, *options, "-", input=dockerfile))
    return (folder / "made").read_text()


@pytest.fixture
def forker(builder: Builder, buildx: Path) -> Docker:
    """docker of somebody who should read the cache of others and not write to it."""
    return over_ssh(builder, "ci", buildx)


@pytest.fixture
def releaser(builder: Builder, buildx: Path) -> Docker:
    """docker of another user, who builds after `forker`."""
    return over_ssh(builder, "job", buildx)


PROXY = "http://poison.example"
SHOWS_PROXY = "RUN : %s && echo ${http_proxy:-none} >/made"


def test_a_secret_of_one_key_is_in_the_cache_of_another(
    forker: Docker, releaser: Docker, tmp_path: Path
) -> None:
    for name in ("poison", "honest"):
        (tmp_path / name).write_text(name)
    token, secret = secrets.token_hex(4), f"id=settings,src={tmp_path}/"
    step = f"RUN --mount=type=secret,id=settings : {token} && cat /run/secrets/settings >/made"
    assert made(forker, tmp_path, step, "--secret", f"{secret}poison") == "poison"
    assert made(releaser, tmp_path, step, "--secret", f"{secret}honest") == "poison"
    uncached = ("--no-cache", "--secret", f"{secret}honest")
    assert made(releaser, tmp_path, step, *uncached) == "honest"


def test_a_result_of_one_keys_proxy_is_in_the_cache_of_another(
    forker: Docker, releaser: Docker, tmp_path: Path
) -> None:
    step = SHOWS_PROXY % secrets.token_hex(4)
    poison = ("--build-arg", f"http_proxy={PROXY}")
    assert made(forker, tmp_path, step, *poison) == f"{PROXY}\n"
    assert made(releaser, tmp_path, step) == f"{PROXY}\n"
    assert made(releaser, tmp_path, step, "--no-cache") == "none\n"


def test_a_cache_mount_of_one_key_is_read_by_the_steps_of_another(
    forker: Docker, releaser: Docker, tmp_path: Path
) -> None:
    mount = f"RUN --mount=type=cache,id={secrets.token_hex(4)},target=/tools"
    made(forker, tmp_path, f"{mount} echo poison >/tools/tool && touch /made")
    step = f"{mount} [ -e /tools/tool ] || echo honest >/tools/tool; cat /tools/tool >/made"
    assert made(releaser, tmp_path, step) == "poison\n"


# What BuildKit has to keep cache mounts apart, and a guard could set.
APART = ("--build-arg", "BUILDKIT_CACHE_MOUNT_NS=forks")


def test_a_namespace_of_cache_mounts_keeps_no_step_apart(
    forker: Docker, releaser: Docker, tmp_path: Path
) -> None:
    """The key of a step in the cache leaves it out, so a plain Dockerfile is enough."""
    mount = f"RUN --mount=type=cache,id={secrets.token_hex(4)},target=/tools"
    honest = f"{mount} [ -e /tools/tool ] || echo honest >/tools/tool; cat /tools/tool >/made"
    made(forker, tmp_path, f"{mount} echo poison >/tools/tool && touch /made", *APART)
    made(forker, tmp_path, honest, *APART)
    assert made(releaser, tmp_path, honest) == "poison\n"
    assert made(releaser, tmp_path, honest, "--no-cache") == "honest\n"


# A second request behind the first, for parsers that count, split or decode differently.
SMUGGLED = "POST /containers/victim/start HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "first",
    [
        "GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n",
        "POST /auth HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n",
        "POST /auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
        "POST /session HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "POST /session HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        "X-Docker-Expose-Session-Uuid: a\r\n\r\n",
        "POST /grpc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "POST /grpc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /v1.41/images/x/../../containers/victim/start HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /containers%2Fvictim%2Fstart HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST //containers/victim/start HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST http://docker/containers/victim/start HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=range(13),
)
def test_no_request_is_smuggled_to_the_daemon(builder: Builder, first: str) -> None:
    builder.docker("create", "--name", "victim", BASE_IMAGE, "true")
    output = builder.ssh(
        f"{builder.stack}-builder", key="ci", input=first + SMUGGLED, errors="replace"
    ).stdout
    assert "HTTP/1.1 204" not in output
    state = passed(builder.docker("inspect", "--format", "{{.State.Status}}", "victim"))
    assert state == "created\n"


def test_a_form_in_the_body_adds_no_parameter(builder: Builder) -> None:
    """Go prefers a form's fields to those of the query."""
    form = "remote=http%3A%2F%2F127.0.0.1%2F&networkmode=host"
    result = builder.ssh(
        f"{builder.stack}-builder",
        key="ci",
        input="POST /build HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded"
        f"\r\nContent-Length: {len(form)}\r\n\r\n{form}",
    )
    assert result.stdout.startswith("HTTP/1.1 400 ")


def test_the_cli_and_buildx_of_the_daemons_release_work_with_a_build_key(
    builder: Builder, registry: str
) -> None:
    with Laptop.with_kit(builder, "ci") as laptop:
        passed(laptop.builder("on"))
        tag, dockerfile = f"{registry}/kit:1", f"FROM {BASE_IMAGE}\nRUN echo by a kit >/made\n"
        passed(laptop.sh(f"docker build --tag {tag} -", input=dockerfile))
        passed(laptop.sh(f"DOCKER_BUILDKIT=0 docker build --tag {tag} -", input=dockerfile))
        for words in (
            f"push {tag}",
            f"pull {tag}",
            f"tag {tag} {tag}-other",
            f"save -o saved {tag}",
            "load -i saved",
            "image ls --all",
            f"image inspect {tag}",
            f"image history {tag}",
            "version",
            "info",
            "system df --verbose",
            "ps --all",
            "buildx du",
            "buildx ls",
            "buildx inspect",
            f"buildx build --push --tag {tag} - <dockerfile",
        ):
            passed(laptop.sh(f"cd && cat >dockerfile && docker {words}", input=dockerfile))


@pytest.fixture
def guard(builder: Builder) -> Iterator[str]:
    """The guard's socket, for client libraries."""
    path = builder.folder / "library.sock"
    path.unlink(missing_ok=True)
    with builder.connection(f"-L{path}:/run/builder/guard.sock", key="ci"):
        assert until(path.exists)
        yield str(path)


def archive_of(dockerfile: str) -> io.BytesIO:
    """A build context as clients of the API send it: compressed with gzip."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile.encode()))
    packed.seek(0)
    return packed


def test_docker_py_builds_pushes_and_pulls_by_digest(guard: str, registry: str) -> None:
    client = docker_py.DockerClient(base_url=f"unix://{guard}", timeout=120)
    name = f"{registry}/docker-py"
    dockerfile = f"FROM {BASE_IMAGE}\nRUN echo docker-py >/built\n"
    built, _ = client.images.build(
        fileobj=archive_of(dockerfile), custom_context=True, encoding="gzip", tag=f"{name}:1"
    )
    assert "errorDetail" not in client.images.push(name, tag="1")
    [digest] = client.images.get(f"{name}:1").attrs["RepoDigests"]
    assert client.images.pull(digest).id == built.id
    assert client.images.get(digest).id == built.id
    assert client.images.get_registry_data(digest).id == digest.partition("@")[2]
    saved = b"".join(built.save(named=True))
    assert client.images.load(saved)[0].id == built.id
    with pytest.raises(docker_py.errors.APIError, match=REFUSED):
        client.containers.create(BASE_IMAGE)


def test_aiodocker_builds_pushes_and_pulls_by_digest(guard: str, registry: str) -> None:
    name = f"{registry}/aiodocker"
    dockerfile = f"FROM {BASE_IMAGE}\nRUN echo aiodocker >/built\n"

    async def work() -> None:
        async with aiodocker.Docker(url=f"unix://{guard}") as client:
            await client.images.build(
                fileobj=archive_of(dockerfile), encoding="gzip", tag=f"{name}:1"
            )
            await client.images.push(name, tag="1")
            built = await client.images.inspect(f"{name}:1")
            [digest] = built["RepoDigests"]
            await client.images.pull(digest)
            assert (await client.images.inspect(digest))["Id"] == built["Id"]
            with pytest.raises(aiodocker.DockerError, match=REFUSED):
                await client.containers.create({"Image": BASE_IMAGE})

    asyncio.run(work())


def test_docker_modem_can_open_a_session(guard: str) -> None:
    """A recorded request of dockerode 5.0.1 for a build with BuildKit."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(guard)
        asking.sendall(
            b"POST /session HTTP/1.1\r\nUpgrade: h2c\r\n"
            b"X-Docker-Expose-Session-Uuid: 12183221-a7b1-4f63-96e5-8965da5563c0\r\n"
            b"X-Docker-Expose-Session-Name: testcontainers\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: Upgrade\r\nHost: localhost\r\n\r\n0\r\n\r\n"
        )
        heard = b""
        # On this stream the daemon is the client, and sends first.
        while b"PRI * HTTP/2.0" not in heard:
            output = asking.recv(4096)
            assert output, heard
            heard += output
    assert heard.startswith(b"HTTP/1.1 101 ")


def test_a_running_build_survives_a_new_key_and_a_new_daemon(builder: Builder) -> None:
    token = secrets.token_hex(4)
    dockerfile = f"FROM {BASE_IMAGE}\nRUN sleep 12 && echo {token} >/slow\n"
    results: list[Result] = []
    docker = over_ssh(builder, "ci")
    thread = threading.Thread(
        target=lambda: results.append(docker("build", "--tag", "slow", "-", input=dockerfile))
    )
    thread.start()
    top = ("docker", "top", builder.container("daemon"), "-eo", "pid,args")
    assert until(lambda: token in run(*top).stdout)
    guard, daemon = builder.container_id("guard"), builder.container_id("daemon")
    builder.add_key("another", role="build")
    builder.settings["cpus"] = "2"
    output = builder.up()
    thread.join()
    passed(results[0])
    assert guard == builder.container_id("guard")
    assert daemon != builder.container_id("daemon")
    assert "they are cut" not in output
    assert "Server:" in passed(docker("version"))
    assert "unchanged" in builder.up("--expect-no-changes")


def test_a_kit_of_a_build_key_forwards_the_guards_socket(builder: Builder, registry: str) -> None:
    with Laptop.with_kit(builder, "ci") as laptop:
        opened = laptop.builder("on")
        assert opened.returncode == 0, opened.stderr
        assert "the socket is forwarded" in opened.stderr
        passed(laptop.sh("docker build -", input=f"FROM {BASE_IMAGE}\nRUN echo by a kit >/made\n"))
        assert REFUSED in laptop.sh(f"docker run --rm {BASE_IMAGE} true").stderr
        report = passed(laptop.builder("doctor"))
        assert "skipped  disk       a key of role build may not look at the free space" in report
    shown = json.loads(passed(builder.client("status", "--json")))
    assert shown["containers"]["guard"].startswith("running")
    assert {key["name"]: key["role"] for key in shown["keys"]}["ci"] == "build"


def test_a_new_role_closes_old_connections_and_the_last_build_key_takes_the_guard_along(
    builder: Builder,
) -> None:
    gateway = builder.container_id("gateway")
    for name in ("ci-ca", "another"):
        builder.remove_key(name)
    builder.settings["keys"] = [{**key, "role": "admin"} for key in builder.settings["keys"]]
    with builder.connection(key="ci") as old:
        assert until(lambda: "name=ci role=build" in builder.who())
        builder.up()
        old.wait(10)
    assert gateway == builder.container_id("gateway")
    assert run("docker", "inspect", builder.container("guard")).returncode != 0
    passed(over_ssh(builder, "ci")("run", "--rm", BASE_IMAGE, "true"))
