"""The status of a builder: what its Docker host, its daemon and the logs of its containers show."""

from __future__ import annotations

import datetime
import json
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from humanize import naturalsize

from client.explain import Clearing, Explained, explain_last
from client.forecast import Forecast, Sample, forecast
from client.history import Build, Day, History, days_of
from client.janitor_log import entries
from client.stack import Stack, StackError
from components.docker_host import HostDocker, HostError
from components.layout import (
    DAEMON_CONFIG,
    DAEMON_USER,
    DATA_DIRECTORY,
    IMAGE_STORE_VARIABLE,
    OWNER_LABEL,
)
from components.metrics.program.families import LEAST_FREE, REMOVAL_KINDS
from components.settings import Size

_ROLES = ("daemon", "gateway", "janitor")
_HOSTS_AT_ONCE = 8
_LOG_LINES = 20_000
_VISIT = re.compile(r"^\s*(\S+) (login|refused) name=(\S+) .*key=(\S+) from=(\S+):\d+")
_REMOVED = re.compile("(by age|the disk is nearly full): removed (.*); free ")
_REMOVED_KIND = re.compile(rf"({'|'.join(REMOVAL_KINDS)}) \S+(?: and (\d+) more)?")
_REFUSALS = 5
_EXPLAINED = 50
_OLD_KEY_DAYS = 365
# OpenTelemetry's library in dockerd writes such a line for each batch that it gives up.
_NOT_EXPORTED = re.compile(r"^[\d/]+ [\d:]+ traces export: (.*)$", re.MULTILINE)
_TRACES_SINCE = "15m"


@dataclass(frozen=True)
class ClientUse:
    """How clients use one name that may log in."""

    name: str
    role: str
    """admin or build."""
    until: str
    """Last day, empty for none."""
    connected: int
    last_login: str
    """ISO 8601, UTC; empty when the gateway's log has none."""


@dataclass(frozen=True)
class KeyUse(ClientUse):
    """One key of the stack, and how it is used."""

    fingerprint: str
    is_authority: bool


@dataclass(frozen=True)
class IdentityUse(ClientUse):
    """One entry of `identities` in the stack, and how jobs use it."""

    issuer: str
    """The URL of the CI that issues the tokens."""
    claims: dict[str, str]


@dataclass(frozen=True)
class Visit:
    """One login or refusal in the gateway's log."""

    time: str
    """ISO 8601, UTC."""
    refused: bool
    name: str
    """Of the key or the identity; - when the stack does not know it."""
    fingerprint: str
    address: str

    @classmethod
    def parse(cls, log: str) -> list[Visit]:
        """The logins and refusals in a log, in its order."""
        found = [match for line in log.splitlines() if (match := _VISIT.match(line))]
        return [cls(match[1], match[2] == "refused", *match.groups()[2:]) for match in found]


@dataclass(frozen=True)
class Removal:
    """What the janitor removed of one kind at one time."""

    time: str
    """ISO 8601, UTC."""
    cause: str
    """One of REMOVAL_CAUSES; space is when the disk was nearly full."""
    kind: str
    """One of REMOVAL_KINDS."""
    count: int

    @classmethod
    def parse(cls, log: str) -> list[Removal]:
        """The removals in the janitor's log with timestamps, in its order."""
        found = []
        for at, text in entries(log):
            if match := _REMOVED.match(text):
                cause = "age" if match[1] == "by age" else "space"
                for kind, more in _REMOVED_KIND.findall(match[2]):
                    found.append(cls(f"{at:%Y-%m-%dT%H:%M:%S}Z", cause, kind, 1 + int(more or 0)))
        return found


@dataclass(frozen=True)
class HostKeyAge:
    """One generation of the gateway's host key."""

    generation: int
    presented: bool
    days: int


@dataclass(frozen=True)
class Status:
    """A builder at one moment; sizes in bytes, times in seconds since 1970."""

    builder: str
    asked: float
    """When it was read."""
    version: str
    up_since: float
    containers: dict[str, str]
    """State of each container, by role; those of the stack's registry too, on its host."""
    cache: int
    cache_cap: int
    images: int
    image_store: str
    """containerd or overlay2."""
    idle_store: str
    """The one that is on the disk too and not in use, empty for none."""
    limits: str
    """Whether the limits of single containers work, and why not."""
    disk: int
    disk_free: int
    inodes: int
    """0 on file systems that have no fixed number of them."""
    inodes_free: int
    disk_forecast: Forecast
    builds: list[Build]
    days: list[Day]
    """Those on which the remembered builds started."""
    no_history: str
    """Why the builds are not known; empty when they are."""
    keys: list[KeyUse]
    identities: list[IdentityUse]
    connections: list[Visit]
    """Those that are open."""
    refusals: list[Visit]
    """The last five in the gateway's log."""
    host_keys: list[HostKeyAge]
    certificate_until: str
    """Last day of the certificates between gateway and daemon, empty without TLS."""
    notices: list[str]
    """What needs attention."""
    visits: list[Visit]
    """All in the gateway's log; not in the JSON."""
    removals: list[Removal]
    """All in the janitor's log; not in the JSON."""
    explained: list[Explained]
    """The recent builds step by step, the newest first, for the page; not in the JSON."""

    @property
    def running(self) -> int:
        return sum(build.seconds is None for build in self.builds)

    @property
    def ended(self) -> list[Build]:
        return [build for build in self.builds if build.seconds is not None]

    @property
    def hit_ratio(self) -> float | None:
        """Share of cached steps in the builds that have ended, 0 to 1; None without builds."""
        steps = sum(build.steps for build in self.ended)
        return sum(build.cached for build in self.ended) / steps if steps else None

    @property
    def median_seconds(self) -> float | None:
        ended = [build.seconds for build in self.ended if build.seconds is not None]
        return statistics.median(ended) if ended else None


@dataclass(frozen=True)
class Unread:
    """A builder whose status cannot be read."""

    builder: str
    notices: list[str]
    """Why."""


def gather_all(
    stack: Stack, resources: list[dict[str, Any]], *, is_explained: bool = False
) -> list[Status | Unread]:
    """The status of each builder of the stack, in the order of `hosts`.

    A host that does not answer hides no other. The arguments are those of `gather`.
    """
    names = [entry["name"] for entry in stack.settings.get("hosts") or []]

    def read(name: str | None) -> Status | Unread:
        builder = name or stack.alias
        try:
            one = stack.on_host(name)
            builder = one.alias
            return gather(one, resources, is_explained=is_explained)
        except (StackError, HostError) as error:
            return Unread(builder, [str(error)])

    with ThreadPoolExecutor(_HOSTS_AT_ONCE) as pool:
        return list(pool.map(read, names or [None]))


def gather(stack: Stack, resources: list[dict[str, Any]], *, is_explained: bool = False) -> Status:
    """Read the Docker host of a stack's only builder; `resources` are those of the stack's state.

    With `is_explained` the recent builds are read step by step too. Raises HostError when the host
    does not answer or has no such builder.
    """
    host, alias = HostDocker(stack.docker_host), stack.alias
    now = datetime.datetime.now(datetime.UTC).timestamp()
    notices: list[str] = []
    inspected = _parts(host, alias)
    containers = dict.fromkeys(_expected(stack, now), "missing")
    containers |= {role: _state(part) for role, part in inspected.items()}
    for role, state in containers.items():
        name = inspected[role]["Name"].strip("/") if role in inspected else f"{alias}-{role}"
        if role not in inspected:
            notices.append(f"{name} is missing; next: pulumi up")
        elif not is_well(state):
            notices.append(f"{name} is {state}; next: docker logs {name}, on the host")

    def printed(*words: str) -> str:
        try:
            return host.output(*words)
        except HostError as error:
            notices.append(str(error))
            return ""

    def in_daemon(*words: str) -> str:
        return printed("exec", "--user", DAEMON_USER, f"{alias}-daemon", *words)

    usage = {
        (line := json.loads(text))["Type"]: Size.parse(line["Size"]).bytes
        for text in in_daemon("docker", "system", "df", "--format", "{{json .}}").splitlines()
    }
    store, idle_store = _stores(inspected["daemon"], in_daemon)
    disk = in_daemon("df", "-Pk", DATA_DIRECTORY).split()[-6:]
    inodes = in_daemon("stat", "-f", "-c", "%c %d", DATA_DIRECTORY).split()
    configuration = in_daemon("cat", DAEMON_CONFIG)
    gc = json.loads(configuration or "{}").get("builder", {}).get("gc", {})
    tidied = printed("logs", "--timestamps", f"{alias}-janitor")
    builds: list[Build] = []
    days: list[Day] = []
    explained: list[Explained] = []
    no_history = ""
    try:
        with History.of(host, alias) as history:
            records = history.records()
            builds, days = history.recent(records), days_of(records)
            if is_explained:
                explained = explain_last(history, records, _EXPLAINED, Clearing.parse(tidied))
    except OSError as error:
        no_history = f"not known ({error})"
    # `docker version` would leave a connection open in the daemon (components/daemon/__init__.py).
    form = "{{.ServerVersion}} {{.CgroupDriver}} {{.CgroupVersion}}"
    version, _, cgroups = in_daemon("docker", "info", "--format", form).strip().partition(" ")
    host_keys = _host_keys(stack, resources, now)
    gateway = f"{alias}-gateway"
    visits = Visit.parse(printed("logs", "--tail", str(_LOG_LINES), gateway))
    who = printed("exec", gateway, "session-monitor", "who").split("lately")[0]
    connections = Visit.parse(who)
    keys, identities = _clients(stack, connections, visits)
    disk_free = int(disk[3]) * 1024 if disk else 0
    status = Status(
        builder=alias,
        asked=now,
        version=version,
        up_since=timestamp(inspected["daemon"]["State"]["StartedAt"]),
        containers=containers,
        cache=usage.get("Build Cache", 0),
        cache_cap=int(str(gc.get("defaultKeepStorage", "0B")).removesuffix("B")),
        images=usage.get("Images", 0),
        image_store=store,
        idle_store=idle_store,
        limits=_limits(stack, cgroups, notices),
        disk=int(disk[1]) * 1024 if disk else 0,
        disk_free=disk_free,
        inodes=int(inodes[0]) if inodes else 0,
        inodes_free=int(inodes[1]) if inodes else 0,
        disk_forecast=forecast(Sample.parse(tidied), disk_free, now),
        builds=builds,
        days=days,
        no_history=no_history,
        keys=keys,
        identities=identities,
        connections=connections,
        refusals=[visit for visit in visits if visit.refused][-_REFUSALS:],
        host_keys=host_keys,
        certificate_until=_certificate(stack, in_daemon),
        notices=notices,
        visits=visits,
        removals=Removal.parse(tidied),
        explained=explained,
    )
    if status.disk and status.disk_free < status.disk * LEAST_FREE:
        notices.append(
            f"the disk is nearly full, {naturalsize(status.disk_free)} free; next: a larger disk, "
            "a smaller cacheSize, or fewer keepImages"
        )
    if status.inodes and status.inodes_free < status.inodes * LEAST_FREE:
        notices.append(
            f"the disk is nearly out of inodes, {status.inodes_free} of {status.inodes} free; "
            "next: a file system with more, or a smaller cacheSize"
        )
    if problem := _trace_problem(stack, host, alias):
        notices.append(problem)
    notices += [
        f"host key {key.generation} is {key.days} days old; next: rotate it (docs/access.md)"
        for key in host_keys
        if key.presented and key.days > _OLD_KEY_DAYS
    ]
    return status


def _parts(host: HostDocker, alias: str) -> dict[str, dict[str, Any]]:
    """What docker says of each container that keeps running, by role.

    Raises HostError when there is no daemon.
    """
    form = f'{{{{.Names}}}} {{{{.Label "{OWNER_LABEL}"}}}}'
    listed = host.output(
        "container", "ls", "--all", "--filter", f"label={OWNER_LABEL}", "--format", form
    )
    owners = dict(line.split() for line in listed.splitlines())
    owner = owners.get(f"{alias}-daemon")
    if not owner:
        raise HostError(f"{alias}-daemon is not on {host.host.url}; next: pulumi up")
    stack = owner.rpartition("/")[0]
    prefixes = {owner: f"{alias}-", f"{stack}/registry": f"{stack.rpartition('/')[2]}-"}
    names = [name for name, of in owners.items() if of in prefixes]
    return {
        part["Name"].strip("/").removeprefix(prefixes[part["Config"]["Labels"][OWNER_LABEL]]): part
        for part in json.loads(host.output("container", "inspect", *names))
        if part["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    }


def _expected(stack: Stack, now: float) -> list[str]:
    """The roles of the containers that the builder has by the settings."""
    today = f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%d}"

    def active(setting: str) -> list[dict[str, Any]]:
        entries = stack.settings.get(setting) or []
        return [entry for entry in entries if str(entry.get("until") or today) >= today]

    builds = [
        *(entry for entry in active("keys") if entry.get("role") == "build"),
        *(entry for entry in active("identities") if entry.get("role", "build") == "build"),
    ]
    roles = [*_ROLES, *(["guard"] if builds else [])]
    metrics = ["metrics", "metrics-page"] if stack.settings.get("metrics") else []
    return [*roles, *(["verifier"] if active("identities") else []), *metrics]


def is_well(state: str) -> bool:
    """Whether a container's state needs no attention."""
    return state in ("running", "running (healthy)", "running (starting)")


def _state(inspected: dict[str, Any]) -> str:
    state = inspected["State"]
    health = state.get("Health", {}).get("Status", "")
    running = state["Status"] == "running"
    return f"{state['Status']} ({health})" if health and running else str(state["Status"])


def timestamp(text: str) -> float:
    """Seconds since 1970 of a time of Docker, Pulumi or the gateway, which may have nanoseconds."""
    return datetime.datetime.fromisoformat(text).timestamp()


def _host_keys(stack: Stack, resources: list[dict[str, Any]], now: float) -> list[HostKeyAge]:
    """The generations in use; their ages come from the stack's state."""
    generations = stack.settings.get("hostKeys") or [1]
    ages = []
    for resource in resources:
        # The builder's name is that of its component, after that of the stack.
        own = resource["urn"].removeprefix("urn:pulumi:").partition("::")[0]
        component = re.escape(stack.alias.removeprefix(f"{own}-"))
        match = re.search(rf"::{component}-host-key-(\d+)$", resource["urn"])
        if match and int(match[1]) in generations:
            days = int((now - timestamp(resource["created"])) // 86400)
            ages.append(HostKeyAge(int(match[1]), int(match[1]) == generations[0], days))
    return sorted(ages, key=lambda key: not key.presented)


def _clients(
    stack: Stack, connections: list[Visit], visits: list[Visit]
) -> tuple[list[KeyUse], list[IdentityUse]]:
    """The keys and the identities of the stack, whose names differ."""
    last = {visit.name: visit.time for visit in visits if not visit.refused}
    connected = [visit.name for visit in connections]

    def use(name: str, role: str, until: object) -> tuple[str, str, str, int, str]:
        return name, role, str(until or ""), connected.count(name), last.get(name, "")

    keys = [
        KeyUse(*use(key.name, key.role, key.until), key.public_key.fingerprint, key.is_authority)
        for key in stack.keys
    ]
    identities = [
        IdentityUse(
            *use(entry["name"], entry.get("role") or "build", entry.get("until")),
            entry["issuer"],
            {name: str(text) for name, text in entry["claims"].items()},
        )
        for entry in stack.identities
    ]
    return keys, identities


def _stores(daemon: dict[str, Any], in_daemon: Callable[..., str]) -> tuple[str, str]:
    """The image store in use, and the one that a change of `imageStore` left on the disk."""
    variables = dict(entry.split("=", 1) for entry in daemon["Config"]["Env"])
    # Daemons of earlier releases, which knew overlay2 only, have no such variable.
    store = variables.get(IMAGE_STORE_VARIABLE, "overlay2")
    # dockerd.sh puts the BuildKit folder of the other store aside.
    aside = in_daemon("sh", "-c", f"cd {DATA_DIRECTORY} && echo buildkit.*").strip()
    return store, aside.removeprefix("buildkit.").replace("*", "")


def _limits(stack: Stack, cgroups: str, notices: list[str]) -> str:
    """Whether limits of single containers work; a notice where they could and do not."""
    driver, _, version = cgroups.partition(" ")
    if not driver:
        return "not known"
    if driver != "none":
        return "containers keep to theirs"
    if version == "1":
        why = "the host has control groups of version 1"
    elif stack.settings.get("isolation") == "privileged":
        why = "isolation is privileged"
    else:
        why = "the daemon has no control groups of its own"
        notices.append(
            "limits of single containers do nothing, on a host where they could work; next: "
            f"docker logs {stack.alias}-daemon 2>&1 | grep cgroups, on the host"
        )
    return f"those of single containers do nothing: {why}; those of the whole builder work"


def _trace_problem(stack: Stack, host: HostDocker, alias: str) -> str:
    """What keeps traces from their collector, by the daemon's log; empty when nothing does."""
    collector = stack.settings.get("traces")
    if not collector:
        return ""
    # dockerd logs to standard error.
    result = host.run("logs", "--since", _TRACES_SINCE, f"{alias}-daemon")
    log = result.stderr.decode(errors="replace").strip()
    if result.returncode:
        return f"docker logs on {host.host.url} failed: {log}"
    failed = _NOT_EXPORTED.findall(log)
    if not failed:
        return ""
    return (
        f"traces do not reach traces = {collector} ({failed[-1]}); next: start the collector, "
        "correct the setting or, with privateNetworks = block, add its address to "
        "privateNetworksExcept"
    )


def _certificate(stack: Stack, in_daemon: Callable[..., str]) -> str:
    if stack.settings.get("transport") != "tls":
        return ""
    text = in_daemon("openssl", "x509", "-enddate", "-noout", "-in", "/certs/server/cert.pem")
    match = re.search(r"notAfter=(.*)", text)
    if not match:
        return ""
    end = datetime.datetime.strptime(match[1].strip(), "%b %d %H:%M:%S %Y %Z")
    return f"{end:%Y-%m-%d}"
