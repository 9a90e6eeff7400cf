"""The registry of a stack: a store that its builders push to, a mirror that they pull through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker

from components.docker_host import DockerHost
from components.registry.certificates import declare_certificates
from components.registry_access import RegistryAccess
from components.scope import HEALTH, Scope, confined, memory, mount, on_network, upload
from components.settings import RegistrySettings, StackSettings

_FILES = Path(__file__).parent
_PORT = 5000
_DEBUG_ADDRESS = "127.0.0.1:5001"
_DATA_DIRECTORY = "/var/lib/registry"
_DIRECTORY = "/etc/docker-build-machine/registry"
_CONFIG_FILE = f"{_DIRECTORY}/config.json"
_STORE_SCRIPT = "/usr/local/lib/registry/store"
_ENVIRONMENT = (
    # Before the file, and where a policy sees it: Pulumi takes all uploads for secrets.
    f"REGISTRY_HTTP_TLS_CLIENTCAS=[{_DIRECTORY}/ca.crt]",
    # Releases from 3 on would send traces to an address of their own.
    "OTEL_TRACES_EXPORTER=none",
)
_HEALTH = ["wget", "-q", "-O", "/dev/null", f"http://{_DEBUG_ADDRESS}/debug/health"]
_READY_SECONDS = 60
_DRAIN_SECONDS = 10
_STOP_SECONDS = 30
# Uploads and downloads are streamed.
_MEMORY_MIB = 512


def configuration(upstream: str | None = None, ttl: int = 0) -> str:
    """distribution's configuration file: the store's, or with `upstream` the mirror's.

    `ttl` are the seconds for which the mirror keeps what it pulled; releases before 3 have seven
    days and ignore it. A cache of descriptors is left out: it would vouch for blobs that the store
    has cleared away.
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
        config["proxy"] = {"remoteurl": upstream, "ttl": f"{ttl}s"}
        # Without it nothing expires; a proxy has no other deletions.
        config["storage"]["delete"] = {"enabled": True}
    return json.dumps(config, indent=2) + "\n"


class Registry(pulumi.ComponentResource):
    """Store and mirror on one host, for those alone who have a certificate of the stack's CA.

    Both are caches: what is lost with their volumes is time.
    """

    host: DockerHost
    access: RegistryAccess
    """What clients are given. It is known whether or not the registry's host is up."""

    def __init__(
        self,
        name: str,
        settings: StackSettings,
        asked: RegistrySettings,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        beside = settings.registry_builder
        inputs = {
            **asked.model_dump(mode="json", by_alias=True),
            "name": settings.registry_name,
            "host": beside.host,
            "hostKey": beside.host_key,
        }
        super().__init__("docker-build-machine:index:Registry", name, inputs, opts)
        self.host = DockerHost(beside.host, beside.host_key)
        self._scope = Scope.of(name, pulumi.Output.from_input(self.host), self.host.url, self)
        self._settings, self._asked = settings, asked
        self.access = RegistryAccess(
            settings.registry_name,
            asked.port,
            asked.mirror_port,
            declare_certificates(self._scope, settings.registry_name, asked.certificates),
        )
        self.register_outputs({})

    def declare_on_host(self, after: list[pulumi.Resource]) -> None:
        """Declare all that is on the host, to come after these resources and to go before them."""
        asked = self._asked
        scope = self._scope.provided().after(*after)
        image = scope.image("image", self._settings.registry_image)
        age, size = asked.age.seconds, asked.size.bytes
        store = self._serve(
            scope,
            "store",
            asked.port,
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
        mirror = self._serve(
            scope,
            "mirror",
            asked.mirror_port,
            image=image,
            network=scope.private_network(containers_talk=False),
            config=configuration(asked.upstream, age),
            scripts=[],
            command=["serve", _CONFIG_FILE],
            envs=[*_ENVIRONMENT],
        )
        scope.script(
            "readiness",
            HEALTH + (_FILES / "readiness.sh").read_text(),
            [str(_READY_SECONDS), store.name, mirror.name],
            triggers=[store.id, mirror.id],
        )

    def _serve(
        self,
        scope: Scope,
        role: str,
        port: int,
        *,
        image: docker.RemoteImage,
        network: docker.Network,
        config: str,
        scripts: list[docker.ContainerUploadArgs],
        **inputs: Any,
    ) -> docker.Container:
        """Declare one of the two containers, with a volume of its own, on this port of the host."""
        certificates = self.access.certificates
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
            ports=[docker.ContainerPortArgs(internal=_PORT, external=port, ip=self._asked.address)],
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
