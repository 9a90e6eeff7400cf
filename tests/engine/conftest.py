"""Real stacks on the real engine: Pulumi, Docker, sshd, ssh and docker, only on this machine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import pytest
import yaml

from bench.client import put_ssh
from bench.keys import free_port, make_key
from tests.conftest import COMMON_BUILDER, engine_module

ROOT = Path(__file__).parents[2]
PROJECT = "docker-build-machine"
DAEMON_IMAGE = os.environ.get("TEST_DAEMON_IMAGE", "")
OLDER_DAEMON_IMAGE = os.environ.get("TEST_OLDER_DAEMON_IMAGE", "")
GATEWAY_IMAGE = os.environ.get("TEST_GATEWAY_IMAGE", "")
GUARD_IMAGE = os.environ.get("TEST_GUARD_IMAGE", "")
BASE_IMAGE = os.environ.get("TEST_BASE_IMAGE", "")
BUILDKIT_IMAGE = os.environ.get("TEST_BUILDKIT_IMAGE", "")
REGISTRY_IMAGE = os.environ.get("TEST_REGISTRY_IMAGE", "")

# Not set on most machines; the output of plugins must reach the engine without it.
os.environ.pop("PYTHONUNBUFFERED", None)

# Loop devices and network namespaces need root.
AS_ROOT = () if os.geteuid() == 0 else ("sudo",)

PING = "GET /_ping HTTP/1.0\r\n\r\n"

Result = subprocess.CompletedProcess[str]


def run(
    *command: str, env: dict[str, str] | None = None, seconds: float = 300, **options: Any
) -> Result:
    """Run a command with a time limit in seconds; keep its output, and do not raise if it fails."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        command,
        env={**os.environ, **(env or {})},
        text=True,
        check=False,
        timeout=seconds,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def passed(result: Result) -> str:
    """The command's output; the test fails with the command's errors if the command failed."""
    assert result.returncode == 0, f"{result.args}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def logs(container: str) -> str:
    """Standard output and standard error of a container."""
    result = run("docker", "logs", container)
    return result.stdout + result.stderr


def memory(builder: Builder, *roles: str) -> dict[str, float]:
    """MiB that the container of each role uses, without page cache that can be reclaimed."""
    names = {builder.container(role): role for role in roles}
    form = "{{.Name}} {{.MemUsage}}"
    output = passed(run("docker", "stats", "--no-stream", "--format", form, *names))
    used = {}
    for line in output.splitlines():
        name, number, unit = re.fullmatch(r"(\S+) ([0-9.]+)([KMG])iB / .*", line).groups()  # type: ignore[union-attr]
        used[names[name]] = float(number) * {"K": 1 / 1024, "M": 1, "G": 1024}[unit]
    return used


def until(condition: Callable[[], object], seconds: float = 15) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        if waited > seconds:
            return False
        # Most conditions start processes, so the pauses grow with the wait.
        time.sleep(min(0.1 + waited / 10, 1))
    return True


def bridge_address(network: str = "bridge") -> str:
    """This machine's address in the network, which containers reach."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    return passed(run("docker", "network", "inspect", network, "--format", form)).strip()


@dataclass(frozen=True)
class Disk:
    """A loop device with an empty ext4 to which the daemon's user can write."""

    image: Path
    device: str

    @classmethod
    def attach(cls, image: Path) -> Disk:
        return cls(image, passed(run(*AS_ROOT, "losetup", "--find", "--show", str(image))).strip())

    @classmethod
    def create(cls, image: Path, mib: int) -> Disk:
        with image.open("wb") as file:
            file.truncate(mib * 1024 * 1024)
        passed(
            run("/usr/sbin/mkfs.ext4", "-q", "-m", "0", "-E", "root_owner=1000:1000", str(image))
        )
        passed(run("/usr/sbin/debugfs", "-w", "-R", "rmdir lost+found", str(image)))
        return cls.attach(image)


def run_in_image(image: str, *command: str, options: Sequence[str] = ()) -> Result:
    """Run a command in a new container of the image, without network."""
    return run("docker", "run", "--rm", "--network", "none", *options, image, *command)


def run_inside(container: str, *command: str, user: str = "", **options: Any) -> Result:
    """Run a command in a running container, as the container's user or as another one."""
    as_user = ("--user", user) if user else ()
    return run("docker", "exec", *as_user, container, *command, **options)


def take_from_image(image: str, target: Path, *places: str) -> Path:
    """Copy the first of these files that exists in the image; return the target."""
    container = passed(run("docker", "create", image)).strip()
    copy = ("docker", "cp", "--follow-link")
    try:
        assert any(
            run(*copy, f"{container}:{place}", str(target)).returncode == 0 for place in places
        )
    finally:
        passed(run("docker", "rm", "--volumes", container))
    return target


def docker_config(folder: Path) -> Path:
    """Make a folder for DOCKER_CONFIG with the buildx of the daemon's image; return it."""
    plugins = folder / "cli-plugins"
    plugins.mkdir(parents=True)
    places = ("/usr/local/libexec/docker/cli-plugins", "/usr/libexec/docker/cli-plugins")
    take_from_image(
        DAEMON_IMAGE, plugins / "docker-buildx", *(f"{place}/docker-buildx" for place in places)
    )
    return folder


@dataclass
class Builder:
    """One stack and a client of it."""

    folder: Path
    stack: str
    settings: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    through: tuple[str, ...] = ()
    """The command in front of its clients' ssh, if they are in another network namespace."""
    seconds: float = 300
    """Time limit, in seconds, of one command of its admin or its clients."""

    @classmethod
    def create(cls, folder: Path, **settings: Any) -> Self:
        """A new stack with its own backend and client key; it is not deployed yet."""
        (folder / "backend").mkdir(parents=True)
        builder = cls(folder, f"test{secrets.token_hex(3)}", {})
        builder.env = {
            "PULUMI_BACKEND_URL": f"file://{folder}/backend",
            "PULUMI_CONFIG_PASSPHRASE": "only for tests",
        }
        builder.settings = {
            "sshAddress": "127.0.0.1",
            "sshPort": free_port(),
            "keys": [{"name": "ada", "publicKey": make_key(folder / "ada")}],
            "daemonImage": DAEMON_IMAGE,
            "gatewayImage": GATEWAY_IMAGE,
            **({"guardImage": GUARD_IMAGE} if GUARD_IMAGE else {}),
            "cacheSize": "5GB",
            **settings,
        }
        project = folder / "project"
        project.mkdir()
        (project / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
        passed(builder._pulumi("stack", "init", builder.stack, "--no-select", cwd=project))
        return builder

    def _pulumi(self, *arguments: str, cwd: Path = ROOT) -> Result:
        return run(
            "pulumi", "--non-interactive", *arguments, env=self.env, cwd=cwd, seconds=self.seconds
        )

    def pulumi(self, command: str, *options: str) -> Result:
        """Run `pulumi COMMAND` on this stack with these settings."""
        config = self.folder / "config.yaml"
        before = yaml.safe_load(config.read_text()) if config.exists() else {}
        settings = {f"{PROJECT}:{name}": value for name, value in self.settings.items()}
        config.write_text(yaml.safe_dump({**before, "config": settings}))
        unasked = () if command == "preview" else ("--yes", "--skip-preview")
        return self._pulumi(
            command, "--stack", self.stack, "--config-file", str(config), *unasked, *options
        )

    def encrypted(self, value: str) -> dict[str, str]:
        """A value for `settings` that is a secret: as `pulumi config set --secret` writes it."""
        config, name = self.folder / "config.yaml", "encrypted"
        words = ("config", "set", "--secret", name, "--config-file", str(config))
        passed(
            run(
                "pulumi",
                "--non-interactive",
                *words,
                "--stack",
                self.stack,
                env=self.env,
                cwd=ROOT,
                input=value,
            )
        )
        written = yaml.safe_load(config.read_text())
        secret = written["config"].pop(f"{PROJECT}:{name}")
        config.write_text(yaml.safe_dump(written))
        return dict(secret)

    def client(self, verb: str, *options: str, env: dict[str, str] | None = None) -> Result:
        """Run `python -m client VERB` as the admin of this stack."""
        return self._module("client", verb, *options, env=env)

    def review(self, verb: str, *options: str) -> Result:
        """Run `python -m review VERB` on this stack."""
        return self._module("review", verb, *options)

    def _module(
        self, module: str, verb: str, *options: str, env: dict[str, str] | None = None
    ) -> Result:
        return run(
            sys.executable,
            "-m",
            module,
            verb,
            "--stack",
            self.stack,
            "--config-file",
            str(self.folder / "config.yaml"),
            *options,
            env={**self.env, **(env or {})},
            cwd=ROOT,
        )

    def put_cache_on(self, disk: Disk) -> None:
        """Put the cache volume, which must not exist yet, on its own disk."""
        passed(
            run(
                "docker",
                "volume",
                "create",
                "--opt",
                "type=ext4",
                "--opt",
                f"device={disk.device}",
                "--label",
                f"docker-build-machine.owner={PROJECT}/{self.stack}/builder",
                self.container("cache"),
            )
        )

    def up(self, *options: str) -> str:
        """Deploy, write the client's ssh configuration, and return Pulumi's output."""
        output = passed(self.pulumi("up", *options))
        self.write_ssh_config()
        return output

    def write_ssh_config(self) -> None:
        """Write the exported configuration, with Ada's key only; control sockets are next to it."""
        (self.folder / "ssh_config").write_text(
            f"IdentityFile {self.folder}/ada\nIdentitiesOnly yes\n"
            + self.output("sshConfig").replace("~/.ssh/%C", f"{self.folder}/%n")
        )
        put_ssh(self.folder / "bin", "-F", f"{self.folder}/ssh_config", through=self.through)

    def clear_away(self) -> None:
        """Remove everything that the stack has on this machine's Docker, with the cache.

        Pulumi is not used: it takes ten times as long, and fails in some states.
        """
        self.ssh_end()
        owner = '{{.Label "docker-build-machine.owner"}}'
        for kind, shown, every, options in (
            ("container", "{{.ID}}", ("--all",), ("--force", "--volumes")),
            ("volume", "{{.Name}}", (), ("--force",)),
            ("network", "{{.ID}}", (), ()),
        ):
            listed = passed(run("docker", kind, "ls", *every, "--format", f"{owner} {shown}"))
            of_stack = [
                line.split()[-1]
                for line in listed.splitlines()
                if line.startswith(f"{PROJECT}/{self.stack}/")
            ]
            if of_stack:
                run("docker", kind, "rm", *options, *of_stack)

    def state(self) -> str:
        """The state as the backend keeps it: secrets encrypted."""
        return (
            self.folder / "backend" / ".pulumi" / "stacks" / PROJECT / f"{self.stack}.json"
        ).read_text()

    def resources(self) -> list[dict[str, Any]]:
        """The resources in the state."""
        return list(json.loads(self.state())["checkpoint"]["latest"]["resources"])

    def output(self, name: str) -> str:
        """One export of the stack, without a process of Pulumi for each."""
        [stack] = [each for each in self.resources() if each["type"] == "pulumi:pulumi:Stack"]
        return str(stack["outputs"][name])

    @property
    def alias(self) -> str:
        """The builder's name, as in its ssh host, its Docker context and its containers."""
        return f"{self.stack}-builder"

    def container(self, role: str) -> str:
        return f"{self.alias}-{role}"

    def container_id(self, role: str) -> str:
        return passed(run("docker", "inspect", "--format", "{{.Id}}", self.container(role))).strip()

    def mountpoint(self, role: str) -> str:
        """The folder of a volume on this machine."""
        form = ("--format", "{{.Mountpoint}}")
        return passed(run("docker", "volume", "inspect", *form, self.container(role))).strip()

    def readiness(self, seconds: int) -> Result:
        """The last step of `pulumi up`, waiting for so many seconds instead of two minutes."""
        [step] = [each for each in self.resources() if each["urn"].endswith("::builder-readiness")]
        words = shlex.split(step["inputs"]["create"])
        words[words.index("--") + 5] = str(seconds)
        return run("sh", "-c", shlex.join(words), input=step["inputs"]["stdin"])

    def health(self, role: str) -> Result:
        """Run a container's own health check now."""
        container = self.container(role)
        form = ("--format", "{{json .Config.Healthcheck.Test}}")
        check = json.loads(passed(run("docker", "inspect", *form, container)))
        return run_inside(container, *check[1:])

    def inside(self, role: str, *command: str, **options: Any) -> Result:
        """Run a command in one of the builder's containers."""
        return run_inside(self.container(role), *command, **options)

    def in_daemon(self, *command: str) -> Result:
        """Run a command in the daemon's container as the daemon's user."""
        return self.inside("daemon", *command, user="1000:1000")

    def ssh(self, *arguments: str, key: str = "ada", **options: Any) -> Result:
        """Run ssh to the gateway with the exported configuration and its own connection."""
        return run(*self.ssh_command(key), *arguments, **options)

    def ssh_command(self, key: str = "ada", control: str = "none") -> list[str]:
        """An ssh command with the exported configuration and only this key, sharing nothing."""
        config = self.folder / f"ssh_config.{key}"
        text = (self.folder / "ssh_config").read_text()
        config.write_text(text.replace(f"{self.folder}/ada\n", f"{self.folder}/{key}\n"))
        return [*self.through, "ssh", "-F", str(config), "-S", control, "-o", "BatchMode=yes"]

    def add_key(self, name: str, **conditions: Any) -> None:
        """Add a new key pair with this name; it is valid after the next `up`."""
        entry = {"name": name, "publicKey": make_key(self.folder / name), **conditions}
        self.settings["keys"] = [*self.settings["keys"], entry]

    def remove_key(self, name: str) -> None:
        """Remove the key; it is refused after the next `up`."""
        self.settings["keys"] = [key for key in self.settings["keys"] if key["name"] != name]

    def sign(self, name: str, authority: str, principal: str, serial: int = 1) -> None:
        """A new key pair with this name, with a certificate of the authority for one hour."""
        make_key(self.folder / name)
        passed(
            run(
                "ssh-keygen",
                "-q",
                "-s",
                str(self.folder / authority),
                "-I",
                f"{name}-{serial}",
                "-n",
                principal,
                "-z",
                str(serial),
                "-V",
                "+1h",
                str(self.folder / f"{name}.pub"),
            )
        )

    @contextmanager
    def connection(
        self, *options: str, key: str = "ada", control: str = "none", **streams: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """A connection that is open during the block; without streams it runs no command."""
        if not streams:
            options = ("-N", *options)
        with subprocess.Popen(
            [*self.ssh_command(key, control), *options, self.alias],
            text=True,
            **{"stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, **streams},
        ) as ssh:
            try:
                yield ssh
            finally:
                ssh.terminate()

    def who(self) -> str:
        """The connected clients, as the gateway lists them."""
        return passed(self.inside("gateway", "session-monitor", "who")).split("lately")[0]

    def audit(self) -> list[str]:
        """The lines of the gateway's log about logins, refusals and closings."""
        output = passed(run("docker", "logs", self.container("gateway")))
        events = (" login ", " refused ", " closed ")
        return [line for line in output.splitlines() if any(event in line for event in events)]

    def ping(self, key: str = "ada") -> Result:
        """A Docker API ping through the gateway, without docker CLI."""
        return self.ssh(self.alias, key=key, input=PING)

    def refuses(self, key: str) -> bool:
        """Whether sshd answers a client with this key, and refuses the key."""
        return "Permission denied (publickey)." in self.ping(key).stderr

    def ssh_end(self) -> None:
        """End the shared connection if there is one."""
        config = self.folder / "ssh_config"
        if config.exists():
            run("ssh", "-F", str(config), "-O", "exit", self.alias)

    def docker(self, *arguments: str, **options: Any) -> Result:
        """Run docker as a client of the builder, over plain DOCKER_HOST=ssh://."""
        return run("docker", *arguments, env=self.docker_env(), seconds=self.seconds, **options)

    @contextmanager
    def docker_process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """docker as a client over ssh://; docker and its ssh are killed at the end of the block."""
        with subprocess.Popen(
            ["docker", *arguments],
            env={**os.environ, **self.docker_env()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as client:
            try:
                yield client
            finally:
                os.killpg(client.pid, signal.SIGKILL)

    @property
    def path(self) -> str:
        """A PATH whose ssh uses the exported configuration."""
        return f"{self.folder}/bin:{os.environ['PATH']}"

    def docker_env(self) -> dict[str, str]:
        """Environment variables with which docker reaches the builder over plain ssh://."""
        return {
            "PATH": self.path,
            "DOCKER_HOST": f"ssh://{self.alias}",
            "DOCKER_BUILDKIT": "1",
        }

    def load(self, image: str) -> None:
        """Load an image of this machine into the builder, as an air-gapped team would."""
        archive = self.folder / "image.tar"
        passed(run("docker", "save", "--output", str(archive), image))
        passed(self.docker("load", "--input", str(archive)))
        archive.unlink()

    def provide(self, image: str) -> None:
        """Load an image that no registry has, and pull any other."""
        if image.startswith("localhost/"):
            self.load(image)
        else:
            passed(self.docker("pull", image))

    def load_base(self) -> None:
        """Load the base image of the tests' builds, if the builder cannot pull it."""
        if BASE_IMAGE.startswith("localhost/"):
            self.load(BASE_IMAGE)

    def build(self, tag: str = "built") -> str:
        """Build tests/engine/context; return the progress output."""
        result = self.docker(
            "build",
            "--progress=plain",
            "--build-arg",
            f"BASE={BASE_IMAGE}",
            "--tag",
            tag,
            str(ROOT / "tests" / "engine" / "context"),
        )
        passed(result)
        return result.stdout + result.stderr

    @contextmanager
    def build_in_flight(self, seconds: int) -> Iterator[list[Result]]:
        """A build with a step of so many seconds is running when the block begins.

        It has ended after the block, and its result is in the list.
        """
        results: list[Result] = []
        token = secrets.token_hex(4)
        dockerfile = f"FROM {BASE_IMAGE}\nRUN sleep {seconds} && echo {token} >/slow\n"

        def build() -> None:
            results.append(self.docker("build", "--tag", "slow", "-", input=dockerfile))

        thread = threading.Thread(target=build)
        thread.start()
        top = ("docker", "top", self.container("daemon"), "-eo", "pid,args")
        assert until(lambda: token in run(*top).stdout)
        yield results
        thread.join()


NewBuilder = Callable[..., Builder]
NewDisk = Callable[[int | Path], Disk]


@pytest.fixture(scope="module")
def new_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDisk]:
    """Makes disks, of so many MiB or from an image; removes them after the tests."""
    made: list[Disk] = []

    def new(content: int | Path) -> Disk:
        if isinstance(content, Path):
            made.append(Disk.attach(content))
        else:
            made.append(Disk.create(tmp_path_factory.mktemp("disk") / "ext4", content))
        return made[-1]

    yield new
    for disk in made:
        run(*AS_ROOT, "losetup", "--detach", disk.device)


@pytest.fixture(scope="module")
def new_builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewBuilder]:
    """Makes builders; removes them, with their caches, after the module's tests."""
    made: list[Builder] = []

    def new(**settings: Any) -> Builder:
        made.append(Builder.create(tmp_path_factory.mktemp("b") / "s", **settings))
        return made[-1]

    yield new
    for builder in made:
        builder.clear_away()


@pytest.fixture(scope="session")
def common_builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """The builder of the modules in COMMON_BUILDER.

    It has the keys `ada`, `ci` of role build, and an authority that has signed a key for `job`.
    """
    ready = Builder.create(tmp_path_factory.mktemp("b") / "s")
    ready.add_key("ci", role="build")
    ready.add_key("authority", principals=["jobs"])
    ready.sign("job", "authority", "jobs")
    try:
        ready.up()
        ready.load_base()
        yield ready
    finally:
        ready.clear_away()


@pytest.fixture(scope="module")
def builder(request: pytest.FixtureRequest, new_builder: NewBuilder) -> Builder:
    """One deployed builder with the base image; the tests of a module share it."""
    if engine_module(request.node.nodeid) in COMMON_BUILDER:
        return cast("Builder", request.getfixturevalue("common_builder"))
    ready = new_builder()
    ready.up()
    ready.load_base()
    return ready


@contextmanager
def derived_image(suffix: str, folder: Path, dockerfile: str) -> Iterator[str]:
    """An image of this machine's engine: DAEMON_IMAGE with the rest of a Dockerfile."""
    tag = f"localhost/t{secrets.token_hex(3)}:{suffix}"
    (folder / "Dockerfile").write_text(f"FROM {DAEMON_IMAGE}\n{dockerfile}")
    without_buildkit = {"DOCKER_BUILDKIT": "0"}
    passed(run("docker", "build", "--quiet", "--tag", tag, str(folder), env=without_buildkit))
    yield tag
    run("docker", "image", "rm", "--force", tag)


@contextmanager
def registry_in(builder: Builder) -> Iterator[str]:
    """A registry on the builder's own loopback address."""
    builder.provide(REGISTRY_IMAGE)
    passed(
        builder.docker(
            "run",
            "--detach",
            "--name",
            "registry",
            "--env",
            "SECRET=hidden",
            "--publish",
            "127.0.0.1:5000:5000",
            REGISTRY_IMAGE,
        )
    )
    try:
        assert until(lambda: "listening on" in builder.docker("logs", "registry").stderr)
        yield "localhost:5000"
    finally:
        builder.docker("rm", "--force", "--volumes", "registry")


@pytest.fixture(scope="module")
def registry(builder: Builder) -> Iterator[str]:
    """The registry that the tests of a module share."""
    with registry_in(builder) as address:
        yield address
