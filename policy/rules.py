"""The rules, as plain functions that yield a sentence for each thing that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PROJECT = "docker-build-machine"
CONTAINER = "docker:index/container:Container"
IMAGE = "docker:index/remoteImage:RemoteImage"
VOLUME = "docker:index/volume:Volume"
PROVIDER = "pulumi:providers:docker"
BUILDER = "docker-build-machine:index:DockerBuilder"
REGISTRY = "docker-build-machine:index:Registry"

_SSHD_PORT = 2222
_REGISTRY_PORT = 5000
_METRICS_PORT = 9105
_UNPINNED = re.compile(r"^(?!sha256:)[^@]*?(/|^)[^:/@]+(:latest)?$")
# Go prints 1m0s, never 60s or 1m; any other form differs from what the provider reads back.
_GO_DURATION = re.compile(
    r"^(0s|([0-9]+h[0-5]?[0-9]m|[1-5]?[0-9]m)?[1-5]?[0-9](\.[0-9]*[1-9])?s|[0-9]+ms)$"
)


@dataclass(frozen=True)
class Resource:
    """One resource of a plan."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    """Plain values by their names in the provider's schema, without those not known yet."""
    protect: bool = False
    parent: str = ""
    """URN of the parent."""
    urn: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether the rules are for it: all of this program, and of others what is a builder's."""
        project = "".join(self.urn.split("::")[1:2])
        return project == PROJECT or bool({self.type, type_of(self.parent)} & {BUILDER, REGISTRY})

    @property
    def role(self) -> str:
        """What it is in its builder: its name without the builder's."""
        return self.name.removeprefix(f"{self.parent.rsplit('::', 1)[-1]}-")


def type_of(urn: str) -> str:
    """The type in a URN, without the types of its parents; empty without a URN."""
    return "".join(urn.split("::")[2:3]).rsplit("$", 1)[-1]


Rule = Callable[[Resource], Iterator[str]]
StackRule = Callable[[list[Resource]], Iterator[tuple[Resource, str]]]


def images_are_pinned(resource: Resource) -> Iterator[str]:
    """Every image is named with a version or a digest."""
    field = {IMAGE: "name", CONTAINER: "image"}.get(resource.type, "")
    image = str(resource.inputs.get(field) or "sha256:")
    if _UNPINNED.match(image):
        yield f"{image} may be another image tomorrow: add a version tag other than latest"


def no_plain_tcp(resource: Resource) -> Iterator[str]:
    """Nothing serves or uses the Docker API over TCP without mutual TLS."""
    if resource.type == PROVIDER and str(resource.inputs.get("host", "")).startswith("tcp:"):
        yield "the host's daemon is reached over TCP: use ssh:// or unix://"
    if resource.type != CONTAINER:
        return
    words = [
        str(word) for name in ("entrypoints", "command") for word in resource.inputs.get(name) or []
    ]
    if any("tcp://" in word for word in words) and "--tlsverify" not in words:
        yield "dockerd would listen on TCP without --tlsverify"
    variables = dict(
        str(variable).partition("=")[::2] for variable in resource.inputs.get("envs") or []
    )
    if variables.get("DOCKER_HOST", "").startswith("tcp:") and not variables.get(
        "DOCKER_TLS_VERIFY"
    ):
        yield "DOCKER_HOST is tcp:// without DOCKER_TLS_VERIFY"
    # The image's entrypoint adds TCP 2375 by itself, unless the command starts with dockerd.
    if variables.get("DOCKER_TLS_CERTDIR") == "" and "dockerd" not in words[:1]:
        yield "with DOCKER_TLS_CERTDIR empty the image opens TCP 2375 to everybody"


def nothing_of_the_host_is_mounted(resource: Resource) -> Iterator[str]:
    """No folder or socket of the host is mounted: its docker.sock makes a container root there."""
    if resource.type != CONTAINER:
        return
    mounted = [volume.get("hostPath") for volume in resource.inputs.get("volumes") or []]
    mounted += [
        mount.get("source")
        for mount in resource.inputs.get("mounts") or []
        if mount.get("type") == "bind"
    ]
    for path in filter(None, mounted):
        yield f"{path} of the host is mounted: use a named volume"


def no_namespace_of_the_host(resource: Resource) -> Iterator[str]:
    """No container uses the host's network, process or other namespaces."""
    if resource.type != CONTAINER:
        return
    for field in ("networkMode", "pidMode", "ipcMode", "usernsMode"):
        if resource.inputs.get(field) == "host":
            yield f"{field} is the host's"


def only_what_asks_for_keys_is_published(resource: Resource) -> Iterator[str]:
    """Only the gateway's sshd, a registry that asks for certificates, and metrics have open ports.

    The container that serves the metrics has no volume but the one with the page, read-only.
    """
    if resource.type != CONTAINER:
        return
    if resource.inputs.get("publishAllPorts"):
        yield "all ports are published"
    for port in resource.inputs.get("ports") or []:
        internal = int(port.get("internal", 0))
        if resource.role == "gateway" and internal == _SSHD_PORT:
            continue
        if resource.role == "metrics-page" and internal == _METRICS_PORT:
            volumes = resource.inputs.get("volumes") or []
            if len(volumes) != 1 or not volumes[0].get("readOnly"):
                yield f"port {internal} is published, and its container has more than the page"
        elif type_of(resource.parent) != REGISTRY or internal != _REGISTRY_PORT:
            yield f"port {internal} is published; only the gateway's sshd and a registry may be"
        elif not any(
            str(variable).startswith("REGISTRY_HTTP_TLS_CLIENTCAS=[/")
            for variable in resource.inputs.get("envs") or []
        ):
            yield f"port {internal} is published, and the registry asks nobody for a certificate"


def the_host_is_known(resource: Resource) -> Iterator[str]:
    """A host that is reached by ssh:// has a pinned host key."""
    if resource.type != PROVIDER or not str(resource.inputs.get("host", "")).startswith("ssh:"):
        return
    options = str(resource.inputs.get("sshOpts") or "")
    for option in ("StrictHostKeyChecking=yes", "KnownHostsCommand="):
        if option not in options:
            yield f"the host is reached over ssh without {option}"


def values_settle(resource: Resource) -> Iterator[str]:
    """No value has a form that pulumi-docker reads back differently and so always applies again."""
    if resource.type != CONTAINER:
        return
    inputs = resource.inputs
    labels = {pair.get("label") for pair in inputs.get("labels") or []}
    # With this label the program ignores changes of the options and compares the label.
    if (
        "systempaths=unconfined" in (inputs.get("securityOpts") or [])
        and "docker-build-machine.isolation" not in labels
    ):
        yield "securityOpts systempaths=unconfined is never read back: replaced on every update"
    capabilities = inputs.get("capabilities") or {}
    for capability in [*(capabilities.get("adds") or []), *(capabilities.get("drops") or [])]:
        if not str(capability).startswith("CAP_") and capability != "ALL":
            yield f"capability {capability} is read back as CAP_{capability}: never settles"
    cpus = inputs.get("cpus")
    if cpus and str(cpus) != str(float(cpus)):
        yield f'cpus "{cpus}" is read back as "{float(cpus)}": replaced on every update'
    if inputs.get("memory") and not inputs.get("memorySwap"):
        yield "memory without memorySwap: updated on every update"
    for host in inputs.get("hosts") or []:
        if ":" in str(host.get("ip", "")):
            yield f"hosts: {host['ip']} is IPv6 and never read back: replaced on every update"
    for field in ("interval", "timeout", "startPeriod"):
        duration = (inputs.get("healthcheck") or {}).get(field)
        if duration and not _GO_DURATION.match(duration):
            yield f"healthcheck.{field} {duration} is not in Go's form (1m0s): never settles"


def _builders(resources: list[Resource]) -> dict[str, Resource]:
    return {resource.urn: resource for resource in resources if resource.type == BUILDER}


def kept_caches_are_protected(resources: list[Resource]) -> Iterator[tuple[Resource, str]]:
    """The cache volume is protected, unless keepCache is false."""
    builders = _builders(resources)
    for resource in resources:
        builder = builders.get(resource.parent)
        keep = builder is None or builder.inputs.get("keepCache", True)
        if resource.type == VOLUME and resource.role == "cache" and keep and not resource.protect:
            yield resource, "the cache is to be kept, and its volume is not protected"


def caches_are_kept(resources: list[Resource]) -> Iterator[tuple[Resource, str]]:
    """Every preview warns of a cache that is not kept."""
    for builder in _builders(resources).values():
        if builder.inputs.get("keepCache") is False:
            yield builder, "keepCache is false: the next pulumi destroy DELETES the cache"


def privileged_where_declared(resources: list[Resource]) -> Iterator[tuple[Resource, str]]:
    """Only the daemon is privileged, and only where `isolation` says so."""
    builders = _builders(resources)
    for resource in resources:
        if resource.type != CONTAINER or not resource.inputs.get("privileged"):
            continue
        builder = builders.get(resource.parent)
        isolation = builder.inputs.get("isolation", "privileged") if builder else "unprivileged"
        if resource.role != "daemon":
            yield resource, "is privileged; only the daemon may be"
        elif isolation != "privileged":
            yield resource, f"is privileged, and isolation is {isolation}"


MANDATORY: tuple[Rule, ...] = (
    images_are_pinned,
    no_plain_tcp,
    nothing_of_the_host_is_mounted,
    no_namespace_of_the_host,
    only_what_asks_for_keys_is_published,
    the_host_is_known,
)
ADVISORY: tuple[Rule, ...] = (values_settle,)
MANDATORY_OF_STACKS: tuple[StackRule, ...] = (kept_caches_are_protected, privileged_where_declared)
ADVISORY_OF_STACKS: tuple[StackRule, ...] = (caches_are_kept,)


def name_of(rule: Rule | StackRule) -> str:
    """Its name in the policy pack."""
    return rule.__name__.replace("_", "-")


@dataclass(frozen=True)
class Violation:
    """One resource that breaks a rule."""

    rule: str
    mandatory: bool
    resource: str
    sentence: str


def violations(resources: list[Resource]) -> Iterator[Violation]:
    """Everything that breaks a rule, as the policy pack would report it."""
    resources = [resource for resource in resources if resource.is_ours]
    for rule in (*MANDATORY, *ADVISORY):
        for resource in resources:
            for sentence in rule(resource):
                yield Violation(name_of(rule), rule in MANDATORY, resource.name, sentence)
    for of_stack in (*MANDATORY_OF_STACKS, *ADVISORY_OF_STACKS):
        for resource, sentence in of_stack(resources):
            mandatory = of_stack in MANDATORY_OF_STACKS
            yield Violation(name_of(of_stack), mandatory, resource.name, sentence)
