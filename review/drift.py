"""What on the host differs from the state, including what `pulumi refresh` cannot see.

A container that still has its id has the image, command, environment, mounts and ports that it was
created with. This compares what can differ nevertheless: what `docker update` and `docker network`
change, files, and what sshd and dockerd run with. Output has hashes of files, never their content.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.layout import (
    ACCESS_DIRECTORY,
    DAEMON_CONFIG,
    DAEMON_USER,
    GATEWAY_LIBRARY,
    GATEWAY_USER,
    OWNER_LABEL,
    TOKEN_USER,
)
from policy.rules import VOLUME
from review.host import HostReader
from review.plan import NETWORK
from review.state import BuilderState, Managed

_MIB = 1024 * 1024
_SSHD_CONFIG = "/config/sshd/sshd_config"
_HOST_KEY = "/config/ssh_host_keys/ssh_host_ed25519_key"

# What `docker update` changes: by input, its name in HostConfig and its value there. Without
# memorySwap Docker chooses a value, which is not compared.
_SET_BY_UPDATE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "memory": ("Memory", lambda value: int(value or 0) * _MIB),
    "memorySwap": ("MemorySwap", lambda value: value and int(value) * _MIB),
    "cpus": ("NanoCpus", lambda value: round(float(value or 0) * 1e9)),
    "restart": ("RestartPolicy", lambda value: value or "no"),
}
# The same for what no container of the program sets.
_UNSET = (
    *("BlkioWeight", "CpuPeriod", "CpuQuota", "CpuShares", "CpusetCpus", "CpusetMems"),
    *("MemoryReservation", "PidsLimit"),
)


@dataclass(frozen=True)
class Drift:
    """One thing that differs."""

    name: str
    """The resource, as Pulumi calls it."""
    what: str
    replace: tuple[str, ...] = ()
    """URNs of what `pulumi up` has to replace to repair it."""
    remove: tuple[str, ...] = ()
    """What has to leave the host first, `KIND NAME`: it has a name or the label of ours."""
    refresh: bool = False
    """Whether `pulumi refresh` has to run first."""


def drift_of(builder: BuilderState) -> list[Drift]:
    """Everything that differs. Raises HostError when the host does not answer."""
    host = HostReader(builder.host)
    host.output("version")
    found: list[Drift] = []
    for role, child in builder.children.items():
        if child.type == VOLUME:
            found += _volume(host, child)
        elif child.type == NETWORK:
            found += _network(host, child)
        elif role in builder.containers:
            found += _container(host, builder, role)
    return [*found, *_strangers(host, builder)]


def _volume(host: HostReader, volume: Managed) -> Iterator[Drift]:
    # A volume has no id: one that was removed and made again can only differ by its labels.
    there = host.inspect("volume", volume.inputs["name"])
    if there is None:
        yield Drift(volume.name, "is gone", refresh=True)
    elif (there["Labels"] or {}) != {
        pair["label"]: pair["value"] for pair in volume.inputs.get("labels") or []
    }:
        yield Drift(volume.name, "its labels differ; nothing repairs them while it keeps its data")


def _network(host: HostReader, network: Managed) -> Iterator[Drift]:
    name = network.inputs["name"]
    yield from _identity(network, f"network {name}", host.inspect("network", name))


def _identity(of: Managed, what: str, there: dict[str, Any] | None) -> Iterator[Drift]:
    """Whether a thing with an id is still the one that Pulumi created."""
    if there is None:
        yield Drift(of.name, "is gone", refresh=True)
    elif there["Id"] != of.id:
        yield Drift(of.name, "was recreated outside Pulumi", remove=(what,), refresh=True)


def _container(host: HostReader, builder: BuilderState, role: str) -> Iterator[Drift]:
    container = builder.children[role]
    name = container.inputs["name"]
    there = host.inspect("container", name)
    another = list(_identity(container, f"container {name}", there))
    yield from another
    if there is None or another or container.runs_once:
        return
    replace = _replacing(builder, container)
    yield from _updated(container, there, replace)
    for upload in container.inputs.get("uploads") or []:
        mode = int(str(upload.get("permissions") or "0644"), 8)
        yield from _file(host, container, name, upload["file"], _content(upload), mode, replace)
    if not there["State"]["Running"]:
        yield Drift(container.name, "is stopped", refresh=True)
    elif role == "gateway":
        yield from _access(host, builder, name)
        yield from _sshd(host, container, replace)
    elif role == "daemon":
        yield from _dockerd(host, container, replace)


def _replacing(builder: BuilderState, container: Managed) -> tuple[str, ...]:
    """What to replace to repair it; the builds of a daemon get time to end first."""
    children = builder.children
    if children.get("daemon") == container and "drain" in children:
        return (children["drain"].urn, container.urn)
    return (container.urn,)


def _updated(
    container: Managed, there: dict[str, Any], replace: tuple[str, ...]
) -> Iterator[Drift]:
    """What `docker update` and `docker network connect` change."""
    host_config = {
        **there["HostConfig"],
        "RestartPolicy": there["HostConfig"]["RestartPolicy"]["Name"] or "no",
    }
    for name, (field, expected) in _SET_BY_UPDATE.items():
        value = expected(container.inputs.get(name))
        if value is not None and value != host_config[field]:
            what = f"{name} is {host_config[field]}, expected {value}"
            yield Drift(container.name, what, replace=replace)
    for field in _UNSET:
        if host_config.get(field):
            what = f"{field} is {host_config[field]}, expected none"
            yield Drift(container.name, what, replace=replace)
    wanted = {network["name"] for network in container.inputs.get("networksAdvanced") or []}
    networks = set(there["NetworkSettings"]["Networks"])
    if wanted and wanted != networks:
        what = f"networks: {_shown(networks)}, expected {_shown(wanted)}"
        yield Drift(container.name, what, replace=replace)


def _file(
    host: HostReader,
    of: Managed,
    container: str,
    path: str,
    content: bytes,
    mode: int,
    replace: tuple[str, ...],
) -> Iterator[Drift]:
    there = host.file(container, path)
    if there is None:
        yield Drift(of.name, f"{path} is gone", replace=replace)
    elif there.content != content:
        what = f"{path} is {_hash(there.content)}, expected {_hash(content)}"
        yield Drift(of.name, what, replace=replace)
    elif (there.mode, there.owner) != (mode, 0):
        what = (
            f"{path} has mode {there.mode:04o} and owner {there.owner}, expected {mode:04o} and 0"
        )
        yield Drift(of.name, what, replace=replace)


def _hash(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}…"


def _content(upload: dict[str, Any]) -> bytes:
    if upload.get("contentBase64"):
        return base64.b64decode(upload["contentBase64"])
    return str(upload["content"]).encode()


def _upload(of: Managed, path: str) -> bytes:
    files = {upload["file"]: upload for upload in of.inputs.get("uploads") or []}
    return _content(files[path]) if path in files else b""


def _access(host: HostReader, builder: BuilderState, gateway: str) -> Iterator[Drift]:
    """Who is let in: the files in the volume, which the container `keys` wrote."""
    keys = builder.children["keys"]
    replace = (keys.urn,)
    for name in ("authorized_keys", "list", "identities"):
        path, content = f"{ACCESS_DIRECTORY}/{name}", _upload(keys, f"/new/{name}")
        # Without identities a file of earlier ones may be there, which nobody reads.
        if content:
            yield from _file(host, keys, gateway, path, content, 0o444, replace)
    # ssh-keygen makes this list on the host. Only whether it lists anything can be compared.
    revoked = host.file(gateway, f"{ACCESS_DIRECTORY}/revoked_keys")
    wanted = any(u["file"].startswith("/new/revoked/") for u in keys.inputs.get("uploads") or [])
    if revoked is None or bool(revoked.content) != wanted:
        yield Drift(keys.name, f"{ACCESS_DIRECTORY}/revoked_keys differs", replace=replace)


def _sshd(host: HostReader, gateway: Managed, replace: tuple[str, ...]) -> Iterator[Drift]:
    """sshd's options with all defaults, as they are for each user's login, and its host key."""
    as_root = ("exec", "--interactive", "--user", "0", gateway.inputs["name"])

    def options(user: str, file: str, stdin: bytes = b"") -> dict[str, str]:
        connection = f"user={user},host=client.example,addr=192.0.2.1,laddr=192.0.2.2,lport=2222"
        host_key = f"{GATEWAY_LIBRARY}/host_key"
        test = ("/usr/sbin/sshd.pam", "-T", "-C", connection, "-h", host_key, "-f")
        found: dict[str, str] = {}
        lines = host.output(*as_root, *test, file, stdin=stdin).splitlines()
        for keyword, _, value in sorted(line.partition(" ") for line in lines):
            # Releases after 10.3 print some of them as sshd_config(5) writes them.
            option = keyword.lower()
            found[option] = f"{found.get(option, '')} {value}"
        return found

    differing: set[str] = set()
    with_tokens = f"TOKEN_USER={TOKEN_USER}" in (gateway.inputs.get("envs") or [])
    for user in [GATEWAY_USER, *([TOKEN_USER] if with_tokens else [])]:
        wanted = options(user, "/dev/stdin", _upload(gateway, f"{GATEWAY_LIBRARY}/sshd_config"))
        found = options(user, _SSHD_CONFIG)
        for option in sorted({*wanted, *found}):
            if option not in differing and wanted.get(option) != found.get(option):
                differing.add(option)
                what = (
                    f"sshd's {option} is{found.get(option, ' not set')}, "
                    f"expected{wanted.get(option, ' not set')}"
                )
                yield Drift(gateway.name, what, replace=replace)
    # It is in a tmpfs, where docker cp sees nothing.
    script = f"[ ! -e {_HOST_KEY} ] || cat {_HOST_KEY}"
    there = host.output(*as_root, "sh", "-c", script).encode()
    meant = _upload(gateway, f"{GATEWAY_LIBRARY}/host_key")
    if there != meant:
        what = f"sshd's host key is {_hash(there)}, expected {_hash(meant)}"
        yield Drift(gateway.name, what, replace=replace)


def _dockerd(host: HostReader, daemon: Managed, replace: tuple[str, ...]) -> Iterator[Drift]:
    """What dockerd reports, against its configuration file in the state."""
    as_user = ("exec", "--user", DAEMON_USER, daemon.inputs["name"])
    info = json.loads(host.output(*as_user, "docker", "info", "--format", "{{json .}}"))
    config = json.loads(_upload(daemon, DAEMON_CONFIG))
    registries = info.get("RegistryConfig") or {}
    indexes = registries.get("IndexConfigs") or {}
    for what, wanted, found in (
        ("storage driver", {config["storage-driver"]}, {info["Driver"]}),
        ("log driver", {config["log-driver"]}, {info["LoggingDriver"]}),
        (
            "insecure registries",
            set(config.get("insecure-registries") or []),
            {name for name, about in indexes.items() if not about["Secure"]},
        ),
        (
            "mirrors",
            {mirror.rstrip("/") for mirror in config.get("registry-mirrors") or []},
            {mirror.rstrip("/") for mirror in registries.get("Mirrors") or []},
        ),
    ):
        if wanted != found:
            differs = f"dockerd's {what}: {_shown(found)}, expected {_shown(wanted)}"
            yield Drift(daemon.name, differs, replace=replace)


def _shown(values: set[str]) -> str:
    return ", ".join(sorted(values)) or "none"


def _strangers(host: HostReader, builder: BuilderState) -> Iterator[Drift]:
    """What has the builder's label and is not in the state."""
    ours = {child.inputs.get("name") for child in builder.children.values()}
    labels = next(iter(builder.containers.values())).inputs["labels"]
    owner = next(pair["value"] for pair in labels if pair["label"] == OWNER_LABEL)
    for kind in ("container", "network", "volume"):
        for name in sorted(host.labelled(kind, f"{OWNER_LABEL}={owner}") - ours):
            # A volume may hold what somebody needs.
            remove = () if kind == "volume" else (f"{kind} {name}",)
            what = f"has a {kind} {name} that Pulumi does not know"
            yield Drift(builder.component.name, what, remove=remove)


def repairs(stack: str, found: list[Drift], options: list[str]) -> list[list[str]]:
    """The commands that repair it: those of docker on the host, then those of pulumi."""
    removals = dict.fromkeys(what for drift in found for what in drift.remove)
    commands = [["docker", *_removal(what)] for what in removals]
    pulumi = ["--stack", stack, *options, "--yes", "--skip-preview"]
    if any(drift.refresh or drift.remove for drift in found):
        # It reads everything at once, and sshd refuses some of more than ten logins at once.
        commands.append(["pulumi", "refresh", "--parallel", "8", *pulumi])
    replaced = dict.fromkeys(urn for drift in found for urn in drift.replace)
    if replaced or len(commands) > len(removals):
        replace = [word for urn in replaced for word in ("--replace", urn)]
        commands.append(["pulumi", "up", *pulumi, *replace])
    return commands


def _removal(what: str) -> list[str]:
    kind, name = what.split()
    # Volumes without a name, which its image asked for, go with a container.
    return [kind, "rm", *(["--force", "--volumes"] if kind == "container" else []), name]
