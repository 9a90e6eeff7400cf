"""docker:index/container:Container."""

from __future__ import annotations

import base64
import io
import re
import tarfile
import time
from contextlib import suppress
from typing import Any

import docker.errors

from offline.plugins.stand_in.engine import Engine
from offline.plugins.stand_in.plugin import Input, Kind, Properties

_MIB = 1024 * 1024
_SECOND = 1_000_000_000
_UPDATED = ("restart", "memory", "memorySwap")


class Container(Kind):
    """A container; read() keeps what upstream never reads back (env, labels, volumes, uploads)."""

    inputs = {
        "name": Input(),
        "image": Input(),
        "command": Input(computed=True),
        "entrypoints": Input(computed=True),
        "user": Input(computed=True),
        "privileged": Input(),
        "readOnly": Input(),
        "restart": Input(replaces=False, default="no"),
        "stopTimeout": Input(computed=True),
        "destroyGraceSeconds": Input(replaces=False),
        "healthcheck": Input(replaces=False, computed=True),
        "mustRun": Input(replaces=False, default=True),
        "attach": Input(replaces=False, default=False),
        "logDriver": Input(computed=True),
        "logOpts": Input(),
        "networkMode": Input(default="bridge"),
        "networksAdvanced": Input(unordered=True),
        "ports": Input(),
        "volumes": Input(unordered=True),
        "tmpfs": Input(replaces=False),
        "uploads": Input(unordered=True),
        "envs": Input(unordered=True, computed=True),
        "labels": Input(unordered=True, computed=True),
        "memory": Input(replaces=False),
        "memorySwap": Input(replaces=False),
        "cpus": Input(),
        "capabilities": Input(),
        "securityOpts": Input(unordered=True, computed=True),
        "devices": Input(unordered=True),
        "sysctls": Input(),
    }
    required = ("image",)
    auto_named = True
    delete_before_replace = True
    computed = ("exitCode", "networkDatas", "bridge")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        client = self._engine.client
        try:
            made = client.create_container_from_config(_config(inputs), inputs["name"])
        except docker.errors.APIError as error:
            raise RuntimeError(f"Unable to create container: {error.explanation}") from None
        identifier = made["Id"]
        try:
            self._prepare_and_start(identifier, inputs)
        except Exception as error:
            client.remove_container(identifier, v=True, force=True)
            explanation = getattr(error, "explanation", None) or error
            raise RuntimeError(f"Unable to start container: {explanation}") from None
        state = self.read(identifier, inputs)
        if state is None:
            raise RuntimeError(f"container {inputs['name']} was gone as soon as it was created")
        return identifier, state

    def _prepare_and_start(self, identifier: str, inputs: Properties) -> None:
        client = self._engine.client
        networks = inputs.get("networksAdvanced") or []
        if networks:
            client.disconnect_container_from_network(identifier, "bridge")
        for network in networks:
            client.connect_container_to_network(
                identifier, network["name"], aliases=network.get("aliases")
            )
        for file in inputs.get("uploads") or []:
            client.put_archive(identifier, "/", _archive(file))
        client.start(identifier)
        if inputs.get("attach"):
            client.wait(identifier)

    def read(self, identifier: str, state: Properties) -> Properties | None:
        try:
            found = self._engine.client.inspect_container(identifier)
        except docker.errors.NotFound:
            return None
        config, host, running = found["Config"], found["HostConfig"], found["State"]["Running"]
        now: Properties = {
            **state,
            "name": found["Name"].lstrip("/"),
            "image": found["Image"]
            if str(state.get("image", "")).startswith("sha256:")
            else config["Image"],
            "command": config["Cmd"] or [],
            "entrypoints": config["Entrypoint"] or [],
            "user": config["User"],
            "privileged": host["Privileged"],
            "readOnly": host["ReadonlyRootfs"],
            "restart": host["RestartPolicy"]["Name"] or "no",
            "securityOpts": host["SecurityOpt"] or [],
            "tmpfs": host.get("Tmpfs") or {},
            "memory": host["Memory"] // _MIB,
            "memorySwap": max(host["MemorySwap"], -1) // (_MIB if host["MemorySwap"] > 0 else 1),
            "logDriver": host["LogConfig"]["Type"],
            "networkMode": host["NetworkMode"],
            "stopTimeout": config.get("StopTimeout"),
            "networkDatas": [
                {"networkName": name, "ipAddress": network["IPAddress"]}
                for name, network in found["NetworkSettings"]["Networks"].items()
            ],
        }
        if not running:
            now["exitCode"] = found["State"]["ExitCode"]
            if state.get("mustRun"):
                now["mustRun"] = False
        if state.get("logOpts"):
            now["logOpts"] = host["LogConfig"]["Config"] or {}
        if host["NanoCpus"]:
            now["cpus"] = repr(host["NanoCpus"] / 1e9)
        if host["CapAdd"] or host["CapDrop"]:
            now["capabilities"] = {"adds": host["CapAdd"] or [], "drops": host["CapDrop"] or []}
        if state.get("ports") and running:
            now["ports"] = _ports_of(found)
        if config.get("Healthcheck"):
            now["healthcheck"] = _healthcheck_of(config["Healthcheck"])
        return now

    def update(self, identifier: str, state: Properties, inputs: Properties) -> Properties:
        client = self._engine.client
        if inputs.get("mustRun") and not state.get("mustRun"):
            client.start(identifier)
        if any(state.get(name) != inputs.get(name) for name in _UPDATED):
            client.update_container(
                identifier,
                mem_limit=int(inputs.get("memory") or 0) * _MIB or None,
                memswap_limit=int(inputs.get("memorySwap") or 0) * _MIB or None,
                restart_policy={"Name": inputs["restart"]},
            )
        return self.read(identifier, {**state, **inputs}) or {}

    def delete(self, identifier: str, state: Properties) -> None:
        client = self._engine.client
        with suppress(docker.errors.NotFound):
            if not state.get("attach"):
                client.stop(identifier, timeout=int(state.get("destroyGraceSeconds") or 0))
            client.remove_container(identifier, v=True, force=True)


def _config(inputs: Properties) -> dict[str, Any]:
    ports = inputs.get("ports") or []
    security = [opt for opt in inputs.get("securityOpts") or [] if opt != "systempaths=unconfined"]
    unconfined = len(security) != len(inputs.get("securityOpts") or [])
    capabilities = inputs.get("capabilities") or {}
    swap = int(inputs.get("memorySwap") or 0)
    host: dict[str, Any] = {
        "Privileged": bool(inputs.get("privileged")),
        "ReadonlyRootfs": bool(inputs.get("readOnly")),
        "RestartPolicy": {"Name": inputs.get("restart")},
        "LogConfig": {"Type": inputs.get("logDriver") or "", "Config": inputs.get("logOpts") or {}},
        "NetworkMode": inputs.get("networkMode"),
        "Tmpfs": inputs.get("tmpfs") or {},
        "Binds": [_bind(volume) for volume in inputs.get("volumes") or []],
        "PortBindings": {
            _port(port): [
                {"HostIp": port.get("ip", "0.0.0.0"), "HostPort": str(int(port["external"]))}
            ]
            for port in ports
        },
        "CapAdd": capabilities.get("adds"),
        "CapDrop": capabilities.get("drops"),
        "SecurityOpt": security,
        "Devices": [
            {
                "PathOnHost": device["hostPath"],
                "PathInContainer": device.get("containerPath") or device["hostPath"],
                "CgroupPermissions": device.get("permissions") or "rwm",
            }
            for device in inputs.get("devices") or []
        ],
        "Sysctls": inputs.get("sysctls"),
        "Memory": int(inputs.get("memory") or 0) * _MIB,
        "MemorySwap": swap * _MIB if swap > 0 else swap,
        "NanoCpus": int(float(inputs.get("cpus") or 0) * 1e9),
    }
    if unconfined:
        host |= {"MaskedPaths": [], "ReadonlyPaths": []}
    config: dict[str, Any] = {
        "Image": inputs["image"],
        "Cmd": inputs.get("command"),
        "Entrypoint": inputs.get("entrypoints"),
        "User": inputs.get("user") or "",
        "Env": inputs.get("envs"),
        "Labels": {pair["label"]: pair["value"] for pair in inputs.get("labels") or []},
        "ExposedPorts": {_port(port): {} for port in ports},
        "HostConfig": host,
    }
    if inputs.get("stopTimeout") is not None:
        config["StopTimeout"] = int(inputs["stopTimeout"])
    health = inputs.get("healthcheck")
    if health:
        config["Healthcheck"] = {
            "Test": health["tests"],
            "Interval": _nanoseconds(health.get("interval", "0s")),
            "Timeout": _nanoseconds(health.get("timeout", "0s")),
            "StartPeriod": _nanoseconds(health.get("startPeriod", "0s")),
            "Retries": int(health.get("retries") or 0),
        }
    return config


def _port(port: dict[str, Any]) -> str:
    return f"{int(port['internal'])}/{port.get('protocol', 'tcp')}"


def _bind(volume: dict[str, Any]) -> str:
    source = volume.get("volumeName") or volume.get("hostPath")
    mode = "ro" if volume.get("readOnly") else "rw"
    return f"{source}:{volume['containerPath']}:{mode}"


def _archive(upload: dict[str, Any]) -> bytes:
    if upload.get("contentBase64"):
        content = base64.b64decode(upload["contentBase64"])
    elif upload.get("content"):
        content = upload["content"].encode()
    else:
        raise RuntimeError(
            "error with upload content: one of 'content', 'content_base64', or 'source' must be set"
        )
    entry = tarfile.TarInfo(upload["file"])
    entry.size = len(content)
    entry.mtime = int(time.time())
    entry.mode = int(upload.get("permissions") or "0644", 8)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _ports_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    ports = []
    for port, bindings in (found["NetworkSettings"]["Ports"] or {}).items():
        internal, protocol = port.split("/")
        ports += [
            {
                "internal": float(internal),
                "external": float(binding["HostPort"]),
                "ip": binding["HostIp"],
                "protocol": protocol,
            }
            for binding in bindings or []
        ]
    return ports


def _healthcheck_of(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "tests": found["Test"],
        "interval": _go_duration(found.get("Interval", 0)),
        "timeout": _go_duration(found.get("Timeout", 0)),
        "startPeriod": _go_duration(found.get("StartPeriod", 0)),
        "retries": float(found.get("Retries", 0)),
    }


def _nanoseconds(duration: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"([0-9.]+)([hms])", duration)
    return int(sum(float(number) * units[unit] for number, unit in parts) * _SECOND)


def _go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: 1m0s, 30s, 0s."""
    seconds = nanoseconds / _SECOND
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{int(hours)}h" if hours else ""
    text += f"{int(minutes)}m" if hours or minutes else ""
    return text + f"{seconds:g}s"
