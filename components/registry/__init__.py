"""The registry of a stack: a store that its builders push to, a mirror that they pull through."""

# No postponed annotations here: the SDK's analyzer reads them to make the package's schema.
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker

from components.advisories import warnings
from components.arguments import RegistryArgs, RegistryClient
from components.docker_host import DockerHost
from components.registry.certificates import declare_certificates
from components.scope import (
    HEALTH,
    Scope,
    confined,
    memory,
    mount,
    on_network,
    upload,
    without_dependencies,
)
from components.settings import Given, RegistrySettings

_FILES = Path(__file__).parent
_PORT = 5000
_DEBUG_ADDRESS = "127.0.0.1:5001"
_DATA_DIRECTORY = "/var/lib/registry"
_DIRECTORY = "/etc/docker-build-machine/registry"
_CONFIG_FILE = f"{_DIRECTORY}/config.json"
_STORE_SCRIPT = "/usr/local/lib/registry/store"
_UPSTREAM_SCRIPT = "/usr/local/lib/registry/upstream"
_UPSTREAM_CONFIG = f"{_DIRECTORY}/upstream.json"
_UPSTREAM_ADDRESS = "127.0.0.1:5002"
# Asked for to check a login at Docker Hub; every mirror of Docker Hub has it.
_HUB_REPOSITORY = "library/hello-world"
_ENVIRONMENT = (
    # It overrides the file. A policy can read it here, but not in an upload, which is a secret.
    f"REGISTRY_HTTP_TLS_CLIENTCAS=[{_DIRECTORY}/ca.crt]",
    # Releases from 3 on would send traces to a default address.
    "OTEL_TRACES_EXPORTER=none",
)
_HEALTH = ["wget", "-q", "-O", "/dev/null", f"http://{_DEBUG_ADDRESS}/debug/health"]
_READY_SECONDS = 60
_DRAIN_SECONDS = 10
_STOP_SECONDS = 30
# Uploads and downloads are streamed.
_MEMORY_MIB = 512


@dataclass(frozen=True)
class Upstream:
    """What a mirror pulls from."""

    url: str
    user: str = ""
    token: str = field(default="", repr=False)

    def proxy(self, ttl: int) -> dict[str, str]:
        """The section of distribution's configuration file."""
        login = {"username": self.user, "password": self.token} if self.token else {}
        return {"remoteurl": self.url, "ttl": f"{ttl}s", **login}


def upstreams(settings: RegistrySettings) -> dict[str, Upstream]:
    """What each mirror pulls from, by the role of the mirror's container."""
    others = {one.role: Upstream(one.url, one.user, one.token) for one in settings.mirrors}
    return {"mirror": Upstream(settings.upstream, settings.user, settings.token), **others}


def configuration(upstream: Upstream | None = None, ttl: int = 0) -> str:
    """distribution's configuration file: the store's, or with `upstream` a mirror's.

    A mirror keeps what it pulled for `ttl` seconds; releases before 3 ignore that and keep it for
    seven days. There is no cache of descriptors: it would list blobs that the store has deleted.
    """
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": _DATA_DIRECTORY}},
        "http": {
            "addr": f":{_PORT}",
            "draintimeout": f"{_DRAIN_SECONDS}s",
            "tls": {
                "certificate": f"{_DIRECTORY}/server.crt",
                "key": f"{_DIRECTORY}/server.key",
            },
            "debug": {"addr": _DEBUG_ADDRESS},
        },
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }
    if upstream:
        config["proxy"] = upstream.proxy(ttl)
        # Nothing expires without it; a proxy deletes nothing else.
        config["storage"]["delete"] = {"enabled": True}
    return json.dumps(config, indent=2) + "\n"


def check_configuration(upstream: Upstream, ttl: int) -> str:
    """The configuration file of the registry that upstream.sh starts: an empty mirror in memory."""
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"inmemory": {}},
        "http": {"addr": _UPSTREAM_ADDRESS},
        "proxy": upstream.proxy(ttl),
    }
    return json.dumps(config, indent=2) + "\n"


class Registry(pulumi.ComponentResource):
    """Store and mirrors on one host. Only clients with a certificate of its CA can connect.

    Both are caches: losing their volumes costs only time. A builder takes the outputs as its
    `registryClient`; they are known even while the host is down.
    """

    store: pulumi.Output[str]
    """host:port of the store, as image names begin."""
    mirror: pulumi.Output[str]
    """host:port of the mirror of Docker Hub."""
    mirrored: pulumi.Output[dict[str, str]]
    """host:port of each mirror of another registry, by that registry's name."""
    ca: pulumi.Output[str]
    """Certificate of the CA that signed both servers' and the clients' certificates, in PEM."""
    certificate: pulumi.Output[str]
    """The clients' certificate, in PEM."""
    key: pulumi.Output[str]
    """Its private key, in PEM; a secret."""

    def __init__(
        self,
        name: str,
        args: RegistryArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        on_host: bool = True,
    ) -> None:
        """Declare a registry; names of settings are in camelCase or in snake_case.

        Raises ValueError that names every wrong setting, before any resource is declared.
        Everything on the host is created after the resources of `opts.depends_on`, and deleted
        before them. Without `on_host`, `declare_on_host` declares it later.
        """
        given = Given.of(RegistrySettings, args)
        opts, before = without_dependencies(opts)
        super().__init__("docker-build-machine:index:Registry", name, given.arguments, opts)
        self._settings = given.known
        self._complete = given.complete
        for warning in warnings({"registryImage": given.known.image}):
            pulumi.log.warn(warning, resource=self)
        self._scope = Scope.of(
            name,
            # The complete settings are a secret if the token is one.
            pulumi.Output.unsecret(
                given.complete.apply(lambda settings: DockerHost(settings.host, settings.host_key))
            ),
            None if isinstance(given.arguments["host"], pulumi.Output) else given.known.host,
            self,
        )
        server = pulumi.Output.unsecret(given.complete.apply(lambda settings: settings.server))
        self._certificates = declare_certificates(self._scope, server, given.known.certificates)
        self.store = server.apply(lambda server: f"{server}:{given.known.port}")
        self.mirror = server.apply(lambda server: f"{server}:{given.known.mirror_port}")
        ports = {mirror.registry: mirror.port for mirror in given.known.mirrors}
        self.mirrored = server.apply(
            lambda server: {registry: f"{server}:{port}" for registry, port in ports.items()}
        )
        self.ca = self._certificates.ca
        self.certificate = self._certificates.client
        self.key = self._certificates.client_key
        if on_host:
            self.declare_on_host(before)
        self.register_outputs({**self.client})

    @property
    def client(self) -> RegistryClient:
        """The value for `registryClient` of a builder."""
        return {
            "store": self.store,
            "mirror": self.mirror,
            "mirrored": self.mirrored,
            "ca": self.ca,
            "certificate": self.certificate,
            "key": self.key,
        }

    def declare_on_host(self, before: Any) -> None:
        """Declare everything on the host, created after these resources and deleted before them."""
        settings = self._settings
        scope = self._scope.provided().having(depends_on=before)
        image = scope.image("image", settings.image)
        age, size = settings.age.seconds, settings.size.bytes
        store = self._serve(
            scope,
            "store",
            settings.port,
            image=image,
            network=scope.entrance(),
            config=configuration(),
            scripts=[upload(_STORE_SCRIPT, (_FILES / "store.sh").read_text())],
            entrypoints=["sh", _STORE_SCRIPT],
            tmpfs={"/run/store": "mode=0700"},
            envs=[
                *_ENVIRONMENT,
                f"STORE_CONFIG={_CONFIG_FILE}",
                f"STORE_AGE={age}",
                f"STORE_SIZE={size}",
            ],
        )
        network = scope.private_network(containers_talk=False)
        ports = {"mirror": settings.mirror_port, **{m.role: m.port for m in settings.mirrors}}
        checks = {"mirror": _HUB_REPOSITORY, **{m.role: m.check for m in settings.mirrors}}
        mirrors = {
            role: self._mirror(scope, role, port, image, network) for role, port in ports.items()
        }
        scope.script(
            "readiness",
            HEALTH + (_FILES / "readiness.sh").read_text(),
            [
                str(_READY_SECONDS),
                _UPSTREAM_SCRIPT,
                store.name,
                *(
                    part
                    for role, container in mirrors.items()
                    for part in (container.name, checks[role] or "-")
                ),
            ],
            triggers=[store.id, *(container.id for container in mirrors.values())],
        )

    def _mirror(
        self,
        scope: Scope,
        role: str,
        port: int,
        image: docker.RemoteImage,
        network: docker.Network,
    ) -> docker.Container:
        """Declare a mirror on this port of the host."""
        age = self._settings.age.seconds

        def file(text: Callable[[Upstream, int], str]) -> pulumi.Output[str]:
            complete = self._complete.apply(lambda given: text(upstreams(given)[role], age))
            return pulumi.Output.secret(complete)

        return self._serve(
            scope,
            role,
            port,
            image=image,
            network=network,
            config=file(configuration),
            scripts=[
                upload(_UPSTREAM_SCRIPT, (_FILES / "upstream.sh").read_text()),
                upload(_UPSTREAM_CONFIG, file(check_configuration), "0600"),
            ],
            command=["serve", _CONFIG_FILE],
            envs=[*_ENVIRONMENT],
        )

    def _serve(
        self,
        scope: Scope,
        role: str,
        port: int,
        *,
        image: docker.RemoteImage,
        network: docker.Network,
        config: pulumi.Input[str],
        scripts: list[docker.ContainerUploadArgs],
        **inputs: Any,
    ) -> docker.Container:
        """Declare one of the containers, with a volume of its own, on this port of the host."""
        certificates, address = self._certificates, self._settings.address
        files: dict[str, pulumi.Input[str]] = {
            "ca.crt": certificates.ca,
            "server.crt": certificates.server,
            "server.key": certificates.server_key,
            "config.json": config,
        }
        return scope.service(
            role,
            image=image,
            health=_HEALTH,
            stop_seconds=_STOP_SECONDS,
            ports=[docker.ContainerPortArgs(internal=_PORT, external=port, ip=address)],
            volumes=[mount(scope.volume(f"{role}-data"), _DATA_DIRECTORY)],
            # Docker uploads nothing into a container whose root is read-only.
            uploads=[
                *(upload(f"{_DIRECTORY}/{file}", text, "0600") for file, text in files.items()),
                *scripts,
            ],
            **on_network(network),
            **memory(_MEMORY_MIB),
            **confined(),
            **inputs,
        )
