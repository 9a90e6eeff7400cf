"""Stand-in for pulumi-docker 5.2: networks, volumes, remote images and containers.

Which inputs replace and which are read back follows the upstream provider, including its traps
(offline/README.md).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import docker.errors

from offline.plugins.stand_in.container import Container
from offline.plugins.stand_in.engine import Engine
from offline.plugins.stand_in.plugin import Input, Kind, Properties, StandIn, serve


def _labels(pairs: list[dict[str, str]] | None) -> dict[str, str]:
    return {pair["label"]: pair["value"] for pair in pairs or []}


class Network(Kind):
    """docker:index/network:Network."""

    inputs = {
        "name": Input(),
        "driver": Input(computed=True),
        "options": Input(computed=True),
        "labels": Input(unordered=True),
    }
    auto_named = True
    computed = ("scope",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        made = self._engine.client.create_network(
            inputs["name"],
            driver=inputs.get("driver") or "bridge",
            options=inputs.get("options"),
            labels=_labels(inputs.get("labels")),
            check_duplicate=True,
        )
        state = self.read(made["Id"], inputs)
        assert state is not None
        return made["Id"], state

    def read(self, identifier: str, state: Properties) -> Properties | None:
        try:
            found = self._engine.client.inspect_network(identifier)
        except docker.errors.NotFound:
            return None
        return {
            **state,
            "name": found["Name"],
            "driver": found["Driver"],
            "options": found["Options"] or {},
            "scope": found["Scope"],
        }

    def delete(self, identifier: str, state: Properties) -> None:
        with suppress(docker.errors.NotFound):
            self._engine.client.remove_network(identifier)


class Volume(Kind):
    """docker:index/volume:Volume; create() adopts a volume of that name, as Docker does."""

    inputs = {
        "name": Input(),
        "driver": Input(computed=True),
        "driverOpts": Input(),
        "labels": Input(unordered=True),
    }
    auto_named = True
    computed = ("mountpoint",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        self._engine.client.create_volume(
            inputs["name"],
            driver=inputs.get("driver"),
            driver_opts=inputs.get("driverOpts"),
            labels=_labels(inputs.get("labels")),
        )
        state = self.read(inputs["name"], inputs)
        assert state is not None
        return inputs["name"], state

    def read(self, identifier: str, state: Properties) -> Properties | None:
        try:
            found = self._engine.client.inspect_volume(identifier)
        except docker.errors.NotFound:
            return None
        return {**state, "driver": found["Driver"], "mountpoint": found["Mountpoint"]}

    def delete(self, identifier: str, state: Properties) -> None:
        with suppress(docker.errors.NotFound):
            self._engine.client.remove_volume(identifier, force=True)


class RemoteImage(Kind):
    """docker:index/remoteImage:RemoteImage; an image that is already present is not pulled."""

    inputs = {
        "name": Input(),
        "keepLocally": Input(replaces=False),
    }
    required = ("name",)
    computed = ("imageId", "repoDigest")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        name, client = inputs["name"], self._engine.client
        try:
            client.inspect_image(name)
        except docker.errors.ImageNotFound:
            try:
                for line in client.pull(name, stream=True):
                    json.loads(line)
                client.inspect_image(name)
            except docker.errors.APIError as error:
                raise RuntimeError(
                    f"Unable to read Docker image into resource: unable to pull image {name}: "
                    f"{error.explanation}"
                ) from None
        state = self.read(name, inputs)
        assert state is not None
        return state["imageId"] + name, state

    def read(self, identifier: str, state: Properties) -> Properties | None:
        try:
            found = self._engine.client.inspect_image(state["name"])
        except docker.errors.ImageNotFound:
            return None
        digests = found.get("RepoDigests") or [""]
        return {**state, "imageId": found["Id"], "repoDigest": digests[0]}

    def update(self, identifier: str, state: Properties, inputs: Properties) -> Properties:
        return {**state, **inputs}

    def delete(self, identifier: str, state: Properties) -> None:
        if not state.get("keepLocally"):
            with suppress(docker.errors.ImageNotFound):
                self._engine.client.remove_image(state["imageId"])


def _configure(engine: Engine, settings: Properties) -> None:
    options: Any = settings.get("sshOpts") or []
    if isinstance(options, str):
        options = json.loads(options)
    url = settings.get("host") or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    engine.configure(str(url), list(options))


def main() -> None:
    engine = Engine()
    serve(
        StandIn(
            "5.2.0",
            {
                "docker:index/network:Network": Network(engine),
                "docker:index/volume:Volume": Volume(engine),
                "docker:index/remoteImage:RemoteImage": RemoteImage(engine),
                "docker:index/container:Container": Container(engine),
            },
            on_configure=lambda settings: _configure(engine, settings),
            known_settings=frozenset({"host", "sshOpts"}),
        ),
    )


if __name__ == "__main__":
    main()
