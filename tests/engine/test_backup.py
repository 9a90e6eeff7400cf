"""`scripts/cache` saves a cache while builds run, and loads it into another builder."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import (
    BASE_IMAGE,
    DAEMON_IMAGE,
    OLDER_DAEMON_IMAGE,
    ROOT,
    Builder,
    NewBuilder,
    Result,
    make_key,
    passed,
    run,
    until,
)
from tests.engine.hosts import hosts_in
from tests.engine.tree import copy_to

# The second layer deletes files of the first, with an extended attribute of overlayfs.
HIDING = (
    f"FROM {BASE_IMAGE}\n"
    "RUN mkdir /folder && touch /folder/old\n"
    "RUN rm -r /folder && mkdir /folder && touch /folder/new\n"
)


def load(builder: Builder, archive: Path) -> Result:
    with archive.open("rb") as stream:
        return run(
            str(ROOT / "scripts" / "cache"), "load", f"{builder.stack}-builder", stdin=stream
        )


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A warm builder on an ssh:// host whose key is only in the stack.

    The host is a container's sshd in front of this machine's engine, so both ways lead to it.
    """
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        host = hosts.new("--device", "/dev/net/tun", "--device", "/dev/fuse")
        warm = new_builder(**host.settings)
        warm.env["SSH_AUTH_SOCK"] = hosts.agent
        warm.up()
        warm.load_base()
        warm.build()
        yield warm


@pytest.fixture(scope="module")
def archive(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a warm builder, written during a build that must still succeed."""
    passed(builder.docker("build", "--tag", "hiding", "-", input=HIDING))
    path = tmp_path_factory.mktemp("archive") / "cache.tar"
    with builder.build_in_flight(6) as in_flight, path.open("wb") as stream:
        saved = run(
            str(ROOT / "scripts" / "cache"), "save", f"{builder.stack}-builder", stdout=stream
        )
    assert saved.returncode == 0, saved.stderr
    passed(in_flight[0])
    return path


@pytest.fixture(scope="module")
def moved(new_builder: NewBuilder) -> Builder:
    """Another deployed builder with an empty cache."""
    empty = new_builder()
    empty.up()
    return empty


def test_a_new_builder_starts_warm_from_the_archive(moved: Builder, archive: Path) -> None:
    passed(load(moved, archive))
    assert moved.build().count("CACHED") == 3
    assert passed(moved.docker("run", "--rm", "built", "cat", "/built")) == "hello\n"
    assert passed(moved.docker("run", "--rm", "hiding", "ls", "/folder")) == "new\n"
    kept = f"FROM {BASE_IMAGE}\nRUN --mount=type=cache,target=/kept grep visit /kept/visits\n"
    passed(moved.docker("build", "-", input=kept))
    assert "unchanged" in moved.up("--expect-no-changes")


@pytest.fixture
def compose() -> Iterator[str]:
    """A daemon as in many compose files: TLS on TCP, its cache in an anonymous volume.

    Its image store is containerd's, as on a new disk of Docker 29, and not that of a new builder.
    """
    name = f"compose-{secrets.token_hex(3)}-docker-1"
    passed(
        run(
            "docker",
            "run",
            "--detach",
            "--privileged",
            "--name",
            name,
            "--volume",
            f"{name}-data:/var/lib/docker",
            DAEMON_IMAGE,
        )
    )
    try:
        assert until(lambda: run(*inside(name), "version").returncode == 0, 60)
        yield name
    finally:
        run("docker", "rm", "--force", "--volumes", name)
        run("docker", "volume", "rm", f"{name}-data")


def inside(container: str) -> tuple[str, ...]:
    """Run docker in this container."""
    socket = "DOCKER_HOST=unix:///run/user/1000/docker.sock"
    return ("docker", "exec", "--interactive", "--env", socket, container, "docker")


def test_a_builder_takes_over_the_cache_of_a_compose_file(
    moved: Builder, compose: str, tmp_path: Path
) -> None:
    if BASE_IMAGE.startswith("localhost/"):
        passed(run("docker", "save", "--output", str(tmp_path / "base.tar"), BASE_IMAGE))
        with (tmp_path / "base.tar").open() as base:
            passed(run(*inside(compose), "load", stdin=base))
    context = str(ROOT / "tests" / "engine" / "context")
    passed(run("docker", "cp", context, f"{compose}:/home/rootless/context"))
    build = (
        "build",
        "--build-arg",
        f"BASE={BASE_IMAGE}",
        "--tag",
        "built",
        "/home/rootless/context",
    )
    passed(run(*inside(compose), *build))

    archive = tmp_path / "cache.tar"
    with archive.open("wb") as stream:
        saved = run(str(ROOT / "scripts" / "cache"), "save", compose, stdout=stream)
    assert saved.returncode == 0, saved.stderr
    refused = load(moved, archive)
    assert refused.returncode == 1
    command = "pulumi config set imageStore containerd && pulumi up"
    assert f"Next: {command}, then this " in refused.stderr
    moved.settings["imageStore"] = "containerd"
    moved.up()
    passed(load(moved, archive))
    assert moved.build().count("CACHED") == 3
    kept = f"FROM {BASE_IMAGE}\nRUN --mount=type=cache,target=/kept grep visit /kept/visits\n"
    passed(moved.docker("build", "-", input=kept))
    assert "unchanged" in moved.up("--expect-no-changes")


def test_a_container_that_is_no_rootless_daemon_is_refused(builder: Builder) -> None:
    result = run(str(ROOT / "scripts" / "cache"), "save", builder.container("gateway"))
    assert result.returncode == 1
    assert "so it is not a rootless daemon; next: copy images with docker save" in result.stderr


def test_half_an_archive_changes_nothing(builder: Builder, archive: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.tar"
    half.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    daemon = builder.container_id("daemon")
    result = load(builder, half)
    assert result.returncode == 1
    assert "not a complete archive of scripts/cache save; the cache is unchanged" in result.stderr
    assert builder.container_id("daemon") == daemon
    assert builder.build().count("CACHED") == 3


def test_the_cache_of_another_image_store_is_refused(builder: Builder, tmp_path: Path) -> None:
    note = tmp_path / "docker-build-machine.note"
    note.write_text("29.7 overlayfs\n")
    archive = tmp_path / "store.tar"
    passed(run("tar", "--create", "--file", str(archive), "-C", str(tmp_path), f"./{note.name}"))
    result = load(builder, archive)
    assert result.returncode == 1
    assert "the storage driver overlayfs (overlayfs is containerd's image store)" in result.stderr
    assert "docker save and docker load" in result.stderr
    assert builder.build().count("CACHED") == 3


def test_an_older_release_does_not_get_a_newer_cache(
    new_builder: NewBuilder, archive: Path
) -> None:
    older = new_builder(daemonImage=OLDER_DAEMON_IMAGE)
    older.up()
    result = load(older, archive)
    assert result.returncode == 1
    assert "which may not be able to read it; the cache is unchanged" in result.stderr
    assert "200 OK" in older.ping().stdout


def make(word: str, builder: Builder, tree: Path, **variables: str) -> Result:
    """Run `make WORD` in a copy of this tree whose .state has the builder's stack."""
    state = tree / ".state"
    if not tree.exists():
        copy_to(tree)
        state.mkdir()
        (state / "passphrase").write_text(builder.env["PULUMI_CONFIG_PASSPHRASE"])
        (state / "backend").symlink_to(builder.folder / "backend")
        (tree / ".venv").symlink_to(sys.prefix)
    shutil.copy(builder.folder / "config.yaml", tree / f"Pulumi.{builder.stack}.yaml")
    env = {"STACK": builder.stack, "SSH_AUTH_SOCK": builder.env["SSH_AUTH_SOCK"], **variables}
    return run("make", word, cwd=tree, env=env)


def test_make_pins_the_host_key_of_the_stack(builder: Builder, tmp_path: Path) -> None:
    tree, archive = tmp_path / "tree", str(tmp_path / "cache.tar")
    passed(make("backup", builder, tree, FILE=archive))
    passed(builder.docker("builder", "prune", "--all", "--force"))
    passed(builder.docker("image", "rm", "--force", "built"))
    passed(make("restore", builder, tree, FILE=archive))
    assert builder.build().count("CACHED") == 3
    passed(make("sbom", builder, tree))
    assert (tree / ".state" / "sbom" / "daemon.cdx.json").exists()

    impostor = make_key(tmp_path / "impostor")
    config = builder.folder / "config.yaml"
    config.write_text(config.read_text().replace(builder.settings["hostKey"], impostor))
    refused = make("backup", builder, tree, FILE=str(tmp_path / "other.tar"))
    assert refused.returncode != 0
    assert "Host key verification failed" in refused.stderr
    assert "the lines above say why" in refused.stderr
    assert "there is no container" not in refused.stderr
    assert not (tmp_path / "other.tar").exists()


def test_machine_cache_takes_a_host_key(builder: Builder, tmp_path: Path) -> None:
    url, key = builder.settings["host"], builder.settings["hostKey"]
    command = (str(ROOT / "scripts" / "cache"), "save", f"{builder.stack}-builder")
    env = {"DOCKER_HOST": url, "SSH_AUTH_SOCK": builder.env["SSH_AUTH_SOCK"]}
    with (tmp_path / "cache.tar").open("wb") as stream:
        saved = run(*command, env={**env, "HOST_KEY": key}, stdout=stream)
        assert saved.returncode == 0, saved.stderr
    unknown = run(*command, env=env)
    assert unknown.returncode == 1
    assert "Host key verification failed" in unknown.stderr
    assert "or set HOST_KEY=" in unknown.stderr


def test_a_host_that_does_not_answer_is_an_error_of_its_own() -> None:
    result = run(
        str(ROOT / "scripts" / "cache"),
        "save",
        "any-builder",
        env={"DOCKER_HOST": "unix:///nowhere.sock"},
    )
    assert result.returncode == 1
    assert "docker.sock" not in result.stderr
    assert "nowhere.sock" in result.stderr
    assert (
        "docker on unix:///nowhere.sock does not answer (the lines above say why)" in result.stderr
    )


def test_a_builder_that_is_not_there_is_named() -> None:
    result = run(str(ROOT / "scripts" / "cache"), "save", "nobody-builder")
    assert result.returncode == 1
    assert "there is no container nobody-builder-daemon on this machine" in result.stderr
    assert run(str(ROOT / "scripts" / "cache"), "safe", "x").returncode == 2
