"""What on the host differs from the state, with what `pulumi refresh` cannot see.

The provider never reads back a container's environment, labels, volumes and uploaded files, and
knows nothing of what runs inside. Values are never printed where they could be secret: of files
there are hashes, of variables names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.layout import ACCESS_DIRECTORY, GATEWAY_USER, OWNER_LABEL
from policy.rules import VOLUME
from review.host import HostReader
from review.plan import NETWORK
from review.state import BuilderState, Managed

_MIB = 1024 * 1024
_SSHD_CONFIG = "/config/sshd/sshd_config"
_LIBRARY = "/usr/local/lib/gateway"
_DOCKERD_CONFIG = "/etc/docker-build-machine/daemon.json"
_HOST_KEY = "/config/ssh_host_keys/ssh_host_ed25519_key"


@dataclass(frozen=True)
class Drift:
    """One thing that differs."""

    name: str
    """The resource, as Pulumi calls it."""
    what: str
    replace: tuple[str, ...] = ()
    """URNs by whose replacement `pulumi up` mends it."""
    remove: tuple[str, ...] = ()
    """What must go from the host before, `KIND NAME`, for it has the name or the label of ours."""
    refresh: bool = False
    """Whether the state must first notice."""


@dataclass
class _Comparison:
    builder: BuilderState
    host: HostReader
    found: list[Drift] = field(default_factory=list)

    def differs(self, of: Managed, what: str, **mending: Any) -> None:
        self.found.append(Drift(of.name, what, **mending))


# How an input is read off `docker container inspect`: from the input, from what is there, and what
# it is when it is not given (None: then it is not compared).
_Read = tuple[Callable[[Any], Any], Callable[[dict[str, Any]], Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def _config(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda there: there["Config"].get(name)


def _host_config(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda there: there["HostConfig"].get(name)


def _capabilities(value: Any) -> tuple[set[str], set[str]]:
    adds, drops = (
        {str(name).removeprefix("CAP_") for name in (value or {}).get(field) or []}
        for field in ("adds", "drops")
    )
    return adds, drops


_READ: dict[str, _Read] = {
    "image": (_as_it_is, lambda there: there["Image"], None),
    "command": (_as_it_is, _config("Cmd"), None),
    "entrypoints": (_as_it_is, _config("Entrypoint"), None),
    "user": (_as_it_is, _config("User"), None),
    "hostname": (_as_it_is, _config("Hostname"), None),
    "stopTimeout": (_as_it_is, _config("StopTimeout"), None),
    "healthcheck": (
        lambda value: value["tests"],
        lambda there: (there["Config"].get("Healthcheck") or {}).get("Test"),
        None,
    ),
    "privileged": (bool, _host_config("Privileged"), False),
    "readOnly": (bool, _host_config("ReadonlyRootfs"), False),
    "restart": (_as_it_is, lambda there: there["HostConfig"]["RestartPolicy"]["Name"], None),
    "memory": (lambda value: int(value) * _MIB, _host_config("Memory"), 0),
    "memorySwap": (lambda value: int(value) * _MIB, _host_config("MemorySwap"), None),
    "cpus": (lambda value: round(float(value) * 1e9), _host_config("NanoCpus"), 0),
    "tmpfs": (_as_it_is, lambda there: there["HostConfig"].get("Tmpfs") or {}, {}),
    "logDriver": (_as_it_is, lambda there: there["HostConfig"]["LogConfig"]["Type"], None),
    "logOpts": (_as_it_is, lambda there: there["HostConfig"]["LogConfig"]["Config"], None),
    "networkMode": (
        lambda mode: {"default": "bridge"}.get(mode, mode),
        lambda there: {"default": "bridge"}.get(mode := there["HostConfig"]["NetworkMode"], mode),
        None,
    ),
    "pidMode": (_as_it_is, _host_config("PidMode"), ""),
    "capabilities": (
        _capabilities,
        lambda there: _capabilities(
            {"adds": there["HostConfig"]["CapAdd"], "drops": there["HostConfig"]["CapDrop"]}
        ),
        (set(), set()),
    ),
    "init": (bool, lambda there: bool(there["HostConfig"].get("Init")), False),
    "sysctls": (dict, lambda there: there["HostConfig"].get("Sysctls") or {}, {}),
    "ulimits": (
        lambda value: {(u["name"], int(u["soft"]), int(u["hard"])) for u in value},
        lambda there: {
            (u["Name"], u["Soft"], u["Hard"]) for u in there["HostConfig"]["Ulimits"] or []
        },
        set(),
    ),
    # The provider makes of systempaths=unconfined what it stands for, two empty lists.
    "securityOpts": (
        lambda value: set(value) - {"systempaths=unconfined"},
        lambda there: set(there["HostConfig"]["SecurityOpt"] or []),
        None,
    ),
    "devices": (
        lambda value: {device["hostPath"] for device in value},
        lambda there: {d["PathOnHost"] for d in there["HostConfig"]["Devices"] or []},
        set(),
    ),
    "networksAdvanced": (
        lambda value: {network["name"] for network in value},
        lambda there: set(there["NetworkSettings"]["Networks"]),
        None,
    ),
    "ports": (
        lambda value: {
            (f"{int(p['internal'])}/{p.get('protocol', 'tcp')}", p.get("ip"), int(p["external"]))
            for p in value
        },
        lambda there: {
            (port, bound["HostIp"], int(bound["HostPort"]))
            for port, bindings in (there["HostConfig"]["PortBindings"] or {}).items()
            for bound in bindings or []
        },
        set(),
    ),
    "volumes": (
        lambda value: {
            (v.get("volumeName") or v.get("hostPath"), v["containerPath"], bool(v.get("readOnly")))
            for v in value
        },
        lambda there: {
            (m.get("Name") or m["Source"], m["Destination"], not m["RW"])
            for m in there["Mounts"]
            if m["Type"] in ("volume", "bind") and not _is_anonymous(m)
        },
        set(),
    ),
}
# Compared otherwise, or of no meaning on the host.
_OTHERWISE = frozenset({"envs", "labels", "uploads", "mustRun", "name"})
_PULUMI_ALONE = frozenset(
    {"attach", "destroyGraceSeconds", "logs", "removeVolumes", "rm", "start", "wait", "waitTimeout"}
)
COMPARED = frozenset({*_READ, *_OTHERWISE})


def _is_anonymous(mount: dict[str, Any]) -> bool:
    """Whether it is a volume that the image asks for, with a name that Docker made up."""
    name = mount.get("Name") or ""
    return len(name) == 64 and all(letter in "0123456789abcdef" for letter in name)


def not_compared(container: Managed) -> set[str]:
    """Inputs of a container that drift says nothing about."""
    return set(container.inputs) - COMPARED - _PULUMI_ALONE


def drift_of(builder: BuilderState) -> list[Drift]:
    """Everything that differs. Raises HostError when the host does not answer."""
    comparison = _Comparison(builder, HostReader(builder.host))
    comparison.host.said("version")
    for child in builder.children.values():
        if child.type == VOLUME:
            _compare_volume(comparison, child)
        elif child.type == NETWORK:
            _compare_network(comparison, child)
    whole = {role for role, child in builder.containers.items() if _compare(comparison, child)}
    if "gateway" in whole:
        _compare_access(comparison)
        _compare_sshd(comparison)
    if "daemon" in whole:
        _compare_dockerd(comparison)
    _find_strangers(comparison)
    return comparison.found


def _compare_volume(comparison: _Comparison, volume: Managed) -> None:
    there = comparison.host.inspect("volume", volume.inputs["name"])
    if there is None:
        comparison.differs(volume, "is gone", refresh=True)
    elif _labels(volume) != (there["Labels"] or {}):
        comparison.differs(volume, "its labels differ; nothing mends them while it keeps its data")


def _compare_network(comparison: _Comparison, network: Managed) -> None:
    there = comparison.host.inspect("network", network.inputs["name"])
    if there is None or there["Id"] != network.id:
        how = "is gone" if there is None else "was made anew by somebody else"
        remove = () if there is None else (f"network {network.inputs['name']}",)
        comparison.differs(network, how, remove=remove, refresh=True)
        return
    if _labels(network) != (there["Labels"] or {}):
        comparison.differs(network, "its labels differ", replace=(network.urn,))
    wanted = network.inputs.get("options") or {}
    if {name: (there["Options"] or {}).get(name) for name in wanted} != wanted:
        comparison.differs(network, "its options differ", replace=(network.urn,))


def _labels(of: Managed) -> dict[str, str]:
    return {pair["label"]: pair["value"] for pair in of.inputs.get("labels") or []}


def _compare(comparison: _Comparison, container: Managed) -> bool:
    """Compare one container; whether what runs inside can be looked at."""
    name = container.inputs["name"]
    there = comparison.host.inspect("container", name)
    if there is None:
        comparison.differs(container, "is gone", refresh=True)
        return False
    mending: dict[str, Any] = {"replace": _replacing(comparison, container)}
    if there["Id"] != container.id:
        comparison.differs(
            container, "was made anew by somebody else", remove=(f"container {name}",), refresh=True
        )
        mending = {}
    for field_, (of_input, of_host, absent) in _READ.items():
        if container.inputs.get(field_) is None and absent is None:
            continue
        if field_ == "networkMode" and container.inputs.get("networksAdvanced"):
            continue  # the provider takes it off that network again
        value = container.inputs.get(field_)
        wanted = absent if value is None else of_input(value)
        if wanted != of_host(there):
            comparison.differs(container, f"{field_} differs", **mending)
    image = (comparison.host.inspect("image", there["Image"]) or {}).get("Config") or {}
    _compare_environment(comparison, container, there, image, mending)
    own = {
        k: v
        for k, v in (there["Config"]["Labels"] or {}).items()
        if (image.get("Labels") or {}).get(k) != v
    }
    if own != _labels(container):
        comparison.differs(container, "its labels differ", **mending)
    if container.runs_once:
        return False
    for upload in container.inputs.get("uploads") or []:
        _compare_file(
            comparison,
            container,
            name,
            upload["file"],
            _content(upload),
            int(str(upload.get("permissions") or "0644"), 8),
            mending,
        )
    if not there["State"]["Running"]:
        comparison.differs(container, "is stopped", refresh=True)
        return False
    return True


def _replacing(comparison: _Comparison, container: Managed) -> tuple[str, ...]:
    """What to replace for it; the daemon is drained before."""
    children = comparison.builder.children
    if children.get("daemon") == container and "drain" in children:
        return (children["drain"].urn, container.urn)
    return (container.urn,)


def _compare_environment(
    comparison: _Comparison,
    container: Managed,
    there: dict[str, Any],
    image: dict[str, Any],
    mending: dict[str, Any],
) -> None:
    wanted = _variables([*(image.get("Env") or []), *(container.inputs.get("envs") or [])])
    found = _variables(there["Config"]["Env"] or [])
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if names:
        comparison.differs(container, f"its environment differs: {', '.join(names)}", **mending)


def _variables(lines: list[str]) -> dict[str, str]:
    pairs = (str(line).partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def _compare_file(
    comparison: _Comparison,
    of: Managed,
    container: str,
    path: str,
    content: bytes,
    mode: int | None,
    mending: dict[str, Any],
) -> None:
    there = comparison.host.file(container, path)
    if there is None:
        comparison.differs(of, f"{path} is gone", **mending)
    elif there.content != content:
        comparison.differs(
            of,
            f"{path} differs: {_hash(there.content)} is there, {_hash(content)} is meant",
            **mending,
        )
    elif mode is not None and (there.mode, there.owner) != (mode, 0):
        comparison.differs(
            of,
            f"{path} has mode {there.mode:04o} and owner {there.owner}, {mode:04o} and 0 are meant",
            **mending,
        )


def _hash(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}…"


def _content(upload: dict[str, Any]) -> bytes:
    if upload.get("contentBase64"):
        return base64.b64decode(upload["contentBase64"])
    return str(upload["content"]).encode()


def _upload(of: Managed, path: str) -> str:
    files = {upload["file"]: upload for upload in of.inputs.get("uploads") or []}
    return _content(files[path]).decode() if path in files else ""


def _compare_access(comparison: _Comparison) -> None:
    """Who gets in: the files in the volume, which the short-lived container wrote."""
    keys = comparison.builder.children["keys"]
    gateway = comparison.builder.children["gateway"].inputs["name"]
    mending = {"replace": (keys.urn,)}
    for name in ("authorized_keys", "list"):
        content = _upload(keys, f"/new/{name}").encode()
        path = f"{ACCESS_DIRECTORY}/{name}"
        _compare_file(comparison, keys, gateway, path, content, 0o444, mending)
    # The binary list is made there; whether it lists anything can be told.
    revoked = comparison.host.file(gateway, f"{ACCESS_DIRECTORY}/revoked_keys")
    wanted = any(u["file"].startswith("/new/revoked/") for u in keys.inputs.get("uploads") or [])
    if revoked is None or bool(revoked.content) != wanted:
        comparison.differs(keys, f"{ACCESS_DIRECTORY}/revoked_keys differs", **mending)


def _compare_sshd(comparison: _Comparison) -> None:
    """sshd's configuration with all its defaults, as one that logs in meets it; its host key."""
    gateway = comparison.builder.children["gateway"]
    name = gateway.inputs["name"]
    connection = (
        f"user={GATEWAY_USER},host=client.example,addr=192.0.2.1,laddr=192.0.2.2,lport=2222"
    )

    def effective(file: str, stdin: bytes = b"") -> dict[str, str]:
        said = comparison.host.said(
            "exec",
            "--interactive",
            "--user",
            "0",
            name,
            "/usr/sbin/sshd.pam",
            "-T",
            "-C",
            connection,
            "-h",
            f"{_LIBRARY}/host_key",
            "-f",
            file,
            stdin=stdin,
        )
        lines = sorted(line.partition(" ")[::2] for line in said.splitlines())
        options: dict[str, str] = {}
        for keyword, value in lines:
            # Releases after 10.3 print some of them as sshd_config(5) writes them.
            option = keyword.lower()
            options[option] = f"{options.get(option, '')} {value}"
        return options

    wanted = effective("/dev/stdin", _upload(gateway, f"{_LIBRARY}/sshd_config").encode())
    found = effective(_SSHD_CONFIG)
    for option in sorted({*wanted, *found}):
        if wanted.get(option) != found.get(option):
            comparison.differs(
                gateway,
                f"sshd's {option} is{found.get(option, ' not set')}, "
                f"meant is{wanted.get(option, ' not set')}",
                replace=(gateway.urn,),
            )
    # docker cp does not see what is in a tmpfs.
    script = f"[ ! -e {_HOST_KEY} ] || cat {_HOST_KEY}"
    there = comparison.host.said("exec", "--user", "0", name, "sh", "-c", script).encode()
    meant = _upload(gateway, f"{_LIBRARY}/host_key").encode()
    if there != meant:
        comparison.differs(
            gateway,
            f"the host key that sshd has is not the stack's: {_hash(there)} is there, "
            f"{_hash(meant)} is meant",
            replace=(gateway.urn,),
        )


def _compare_dockerd(comparison: _Comparison) -> None:
    """What the daemon says of itself, against its configuration file in the state."""
    daemon = comparison.builder.children["daemon"]
    said = comparison.host.said(
        "exec",
        "--user",
        "1000:1000",
        daemon.inputs["name"],
        "docker",
        "info",
        "--format",
        "{{json .}}",
    )
    info, wanted = json.loads(said), json.loads(_upload(daemon, _DOCKERD_CONFIG))
    registries = (info.get("RegistryConfig") or {}).get("IndexConfigs") or {}
    insecure = {name for name, about in registries.items() if not about["Secure"]}
    for what, meant, found in (
        ("storage driver", wanted["storage-driver"], info["Driver"]),
        ("log driver", wanted["log-driver"], info["LoggingDriver"]),
        ("insecure registries", set(wanted.get("insecure-registries") or []), insecure),
        (
            "mirrors",
            {m.rstrip("/") for m in wanted.get("registry-mirrors") or []},
            {m.rstrip("/") for m in (info.get("RegistryConfig") or {}).get("Mirrors") or []},
        ),
    ):
        if meant != found:
            comparison.differs(
                daemon,
                f"dockerd's {what}: {_shown(found)}, meant is {_shown(meant)}",
                replace=_replacing(comparison, daemon),
            )


def _shown(value: Any) -> str:
    return ", ".join(sorted(value)) or "none" if isinstance(value, set) else str(value)


def _find_strangers(comparison: _Comparison) -> None:
    """What has the builder's label and is not in the state."""
    builder = comparison.builder
    ours = {child.inputs.get("name") for child in builder.children.values()}
    owner = next(iter(builder.containers.values())).inputs["labels"]
    label = next(pair["value"] for pair in owner if pair["label"] == OWNER_LABEL)
    for kind in ("container", "network", "volume"):
        for name in sorted(comparison.host.labelled(kind, f"{OWNER_LABEL}={label}") - ours):
            # A volume may hold what somebody needs.
            remove = () if kind == "volume" else (f"{kind} {name}",)
            comparison.found.append(
                Drift(
                    builder.component.name,
                    f"has a {kind} {name} that Pulumi does not know",
                    remove=remove,
                )
            )


def mending(stack: str, found: list[Drift], options: list[str]) -> list[list[str]]:
    """The commands that mend it: those of docker on the host, then those of pulumi."""
    removals = dict.fromkeys(what for drift in found for what in drift.remove)
    commands = [["docker", *_removal(what)] for what in removals]
    pulumi = ["--stack", stack, *options, "--yes", "--skip-preview"]
    if any(drift.refresh or drift.remove for drift in found):
        # It reads everything at once, and from ten logins at once on sshd refuses some.
        commands.append(["pulumi", "refresh", "--parallel", "8", *pulumi])
    replaced = dict.fromkeys(urn for drift in found for urn in drift.replace)
    if replaced or len(commands) > len(removals):
        replace = [word for urn in replaced for word in ("--replace", urn)]
        commands.append(["pulumi", "up", *pulumi, *replace])
    return commands


def _removal(what: str) -> list[str]:
    kind, name = what.split()
    # With the volumes without a name that its image asked for.
    return [kind, "rm", *(["--force", "--volumes"] if kind == "container" else []), name]
