"""`make` as a user with sudo and an empty home, who is not in the group docker, on this machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import AS_ROOT, PROJECT, ROOT, Result, passed, run, until
from tests.engine.tree import files

# It builds images with an empty cache, and so moves tags that other tests use.
pytestmark = pytest.mark.alone
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PROJECT
SECONDS = 1200
Make = Callable[..., Result]


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """The account; it is removed after the tests, with its home and its group membership."""
    name = f"maker{secrets.token_hex(3)}"
    rules = f"/etc/sudoers.d/{name}"
    passed(run(*AS_ROOT, "useradd", "--create-home", "--shell", "/bin/bash", name))
    try:
        rule = f"{name} ALL=(ALL) NOPASSWD: ALL\n"
        passed(run(*AS_ROOT, "tee", rules, input=rule))
        yield name
    finally:
        run(*AS_ROOT, "rm", "-f", rules)
        # An interrupted run may have left them; all processes of this account are the test's.
        theirs = ("pgrep", "-U", name)  # of the real user, so sudo's too
        for pid in run(*theirs).stdout.split():
            run(*AS_ROOT, "kill", pid)
        assert until(lambda: not run(*theirs).stdout)
        passed(run(*AS_ROOT, "userdel", "--remove", name))


@pytest.fixture(scope="module")
def make(user: str, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run `make` in a copy of the tree, with the Pulumi CLI that is cached here, if any."""
    home = Path("~" + user).expanduser()
    tree = tmp_path_factory.mktemp("tree") / "tree.tar"
    passed(run("tar", "--create", "--file", str(tree), *files(), cwd=ROOT))
    as_user = (*AS_ROOT, "runuser", "--user", user, "--")
    with tree.open("rb") as stream:
        script = f"mkdir -p {home}/tree && tar -xC {home}/tree"
        passed(run(*as_user, "sh", "-c", script, stdin=stream))
    # They take minutes to build; other files in that cache contain paths of their owner.
    kept_programs = [
        sorted(found, key=lambda folder: folder.stat().st_mtime)[-1]
        for name in ("pulumi-v*[0-9a-f]", "daemon-binaries-*[0-9a-f]")
        if (found := [folder for folder in CACHE.glob(name) if folder.suffix != ".part"])
    ]
    for folder in kept_programs:
        passed(run(*as_user, "mkdir", "-p", f"{home}/.cache/{PROJECT}"))
        passed(run(*AS_ROOT, "cp", "--recursive", str(folder), f"{home}/.cache/{PROJECT}/"))
        passed(run(*AS_ROOT, "chown", "--recursive", f"{user}:", f"{home}/.cache/{PROJECT}"))
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def make(*words: str) -> Result:
        env = {**kept, "HOME": str(home), "PATH": path, "USER": user, "LOGNAME": user}
        named = [f"{name}={value}" for name, value in env.items()]
        command = (*as_user, "env", "--ignore-environment", *named, "make", "-C", f"{home}/tree")
        return run(*command, *words, seconds=SECONDS)

    return make


def test_every_command_works_without_a_new_login(make: Make, user: str) -> None:
    team = f"team{secrets.token_hex(3)}"
    stack = f"STACK={team}"
    try:
        made = make("team", f"NAME={team}")
        assert made.returncode == 0, made.stderr
        assert f"adding {user} to the group docker" in made.stderr
        assert "docker build through the builder (again)" in made.stderr
        home = Path("~" + user).expanduser()
        archive = home / "cache.tar"
        for words in (
            ("status", stack),
            ("preview", stack),
            ("drift", stack),
            (
                "kit",
                "KEY=" + str(home / "tree" / ".state" / "clients" / team / "id_ed25519.pub"),
                stack,
            ),
            ("backup", f"FILE={archive}", stack),
            ("restore", f"FILE={archive}", stack),
            ("sbom", stack),
            ("up", stack),
            ("down", stack),
        ):
            result = make(*words)
            assert result.returncode == 0, (words, result.stdout, result.stderr)
            assert "to the group docker" not in result.stderr
        # This contacts registries, which may be unreachable; it contacts Docker in any case.
        assert "permission denied" not in make("images").stdout
    finally:
        # A failed test may have left these too.
        purged = make("purge", "PURGE=yes")
    assert purged.returncode == 0, purged.stderr
    left = run("docker", "ps", "--all", "--quiet", "--filter", f"name=^{team}-builder")
    assert not passed(left)
