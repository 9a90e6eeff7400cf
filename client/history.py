"""The builds that a daemon remembers: BuildKit's records, their steps and what defined them.

`docker buildx history` is no help: it counts BuildKit's own steps too (2 of 7 are cached where both
RUN lines of a Dockerfile are), and it needs an image of Docker 28, where `buildx dial-stdio` needs
one of 26.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from client.buildkit import BuildKit, seconds
from components.docker_host import HostDocker
from components.layout import DAEMON_USER

_DELETED = 2
_PROVENANCE = "https://slsa.dev/provenance/v1"
_IMAGE = "docker-image://"
_READINESS = "docker-build-machine/readiness:"  # what components/readiness.sh builds at each update
# "[2/5] RUN make", "[linux/amd64 tests 2/5] COPY . ."; not what BuildKit does by itself, nor FROM.
_STEP = re.compile(r"\[(?:.* )?\d+/\d+\] (?!FROM )")
_PLACE = re.compile(r"\[[^]]*\] ")
_CONTEXT = re.compile(r"\[internal\] load build context|\[context [^]]*\] load from client")
_ARGUMENT = "build-arg:"
_RECENT = 50


@dataclass(frozen=True)
class Build:
    """One build: its Dockerfile's steps other than FROM, and how many came from the cache."""

    started: float
    """Seconds since 1970."""
    seconds: float | None
    """How long it took; None while it runs."""
    steps: int
    cached: int
    failed: bool
    ref: str = ""
    """BuildKit's name of it, 25 letters and digits."""
    images: tuple[str, ...] = ()
    """The names that its result got, without docker.io."""
    commit: str = ""
    """Of the client's git checkout; empty where the client's buildx did not tell."""
    context: int | None = None
    """Bytes that the client sent of its build context; None when nothing was sent or told."""


@dataclass(frozen=True)
class Record:
    """What BuildKit remembers of a build besides its steps."""

    ref: str
    started: float
    """Seconds since 1970."""
    completed: float | None
    """None while it runs."""
    frontend: str
    options: dict[str, str] = field(repr=False)
    """What the client asked for (`filename`, `target`, `platform`, `no-cache`, `vcs:revision`, …).
    """
    arguments: dict[str, str] = field(repr=False)
    """The build arguments. Their values may be secrets: compare them, and never show them."""
    images: tuple[str, ...]
    error: str | None = field(repr=False)
    """None when the build succeeded; the text may contain values of build arguments."""
    provenance: tuple[str, ...]
    """The digests of its provenance, one for each platform; none of a build that failed."""

    @classmethod
    def parse(cls, event: Any) -> Record | None:
        """The record of a BuildHistoryEvent; None for a deleted one."""
        if event.type == _DELETED:
            return None
        record = event.record
        attrs = {pair.key: pair.value for pair in record.attrs}
        results = [record.result, *(entry.value for entry in record.results)]
        attributes = [pair for exporter in record.exporters for pair in exporter.attrs]
        return cls(
            ref=record.ref,
            started=seconds(record.created),
            completed=seconds(record.completed) if record.HasField("completed") else None,
            frontend=record.frontend,
            options={k: v for k, v in attrs.items() if not k.startswith(_ARGUMENT)},
            arguments={
                k.removeprefix(_ARGUMENT): v for k, v in attrs.items() if k.startswith(_ARGUMENT)
            },
            images=tuple(
                _short(name)
                for pair in attributes
                if pair.key == "name"
                for name in pair.value.split(",")
                if name
            ),
            error=record.error.message if record.HasField("error") else None,
            provenance=tuple(
                blob.digest
                for result in results
                for blob in result.attestations
                if any(pair.value == _PROVENANCE for pair in blob.annotations)
            ),
        )

    def masked(self, text: str) -> str:
        """The text with the names of build arguments in place of their values."""
        # Stage and number of a step are not arguments.
        match = _PLACE.match(text)
        place = match[0] if match else ""
        text = text.removeprefix(place)
        for name, value in sorted(self.arguments.items(), key=lambda item: -len(item[1])):
            if value:
                # A short value may be part of any word.
                edge = r"\b" if len(value) < 4 and value.isalnum() else ""
                text = re.sub(f"{edge}{re.escape(value)}{edge}", f"${name}", text)
        return place + text


@dataclass(frozen=True)
class Step:
    """One step of a build (a vertex of BuildKit's graph), of the Dockerfile or BuildKit's own."""

    digest: str
    name: str = field(repr=False)
    """As BuildKit shows it, with the values of build arguments."""
    inputs: tuple[str, ...]
    """The digests of the steps whose results it uses."""
    started: float | None = None
    """Seconds since 1970; None for a step that never ran."""
    completed: float | None = None
    cached: bool = False
    failed: bool = False
    bytes: int = 0
    """Sent by the client, or by a registry."""
    is_download: bool = False
    """Whether it only fetches what the step of the same name (ADD URL) then adds."""

    @property
    def is_instruction(self) -> bool:
        """Whether it is a step of the Dockerfile other than FROM."""
        return bool(_STEP.match(self.name)) and not self.is_download

    @property
    def place(self) -> str:
        """Stage and number, such as [tests 2/5]; empty for BuildKit's own steps."""
        match = _STEP.match(self.name)
        return match[0].strip() if match else ""


def steps_of(answers: Any) -> list[Step]:
    """The steps in StatusResponses, in BuildKit's order; a later word about a step adds to it."""
    steps: dict[str, Step] = {}
    sent: dict[tuple[str, str], int] = {}
    for answer in answers:
        for vertex in answer.vertexes:
            before = steps.get(vertex.digest)
            started = [seconds(vertex.started)] if vertex.HasField("started") else []
            if before and before.started is not None:
                started.append(before.started)
            steps[vertex.digest] = Step(
                vertex.digest,
                vertex.name,
                tuple(vertex.inputs),
                min(started, default=None),
                seconds(vertex.completed) if vertex.HasField("completed") else None,
                vertex.cached or bool(before and before.cached),
                bool(vertex.error) or bool(before and before.failed),
            )
        for status in answer.statuses:
            key = (status.vertex, status.id)
            sent[key] = max(sent.get(key, 0), status.current)
    for (digest, _), size in sent.items():
        if digest in steps:
            steps[digest] = replace(steps[digest], bytes=steps[digest].bytes + size)
    downloads = {
        other
        for step in steps.values()
        for other in step.inputs
        if other in steps and steps[other].name == step.name
    }
    return [
        replace(step, is_download=True) if step.digest in downloads else step
        for step in steps.values()
    ]


def summary(record: Record, steps: list[Step]) -> Build:
    """The build of a record and its steps."""
    # A retried or exported step has the name of the first; a build of several platforms has one of
    # each name for each.
    cached: dict[str, bool] = {}
    for step in steps:
        if step.is_instruction:
            cached[step.name] = cached.get(step.name, False) or step.cached
    contexts = [step.bytes for step in steps if _CONTEXT.match(step.name)]
    return Build(
        started=record.started,
        seconds=None if record.completed is None else max(0.0, record.completed - record.started),
        steps=len(cached),
        cached=sum(cached.values()),
        failed=record.error is not None,
        ref=record.ref,
        images=record.images,
        commit=record.options.get("vcs:revision", ""),
        context=sum(contexts) if contexts else None,
    )


@dataclass(frozen=True)
class Definition:
    """What defines the result of a step, but for its inputs and the content of files."""

    operation: dict[str, Any] = field(repr=False)
    """The operation, without what BuildKit's cache ignores, and without the digest of an image."""
    image: str = ""
    """Name of the image, for a FROM."""
    image_digest: str = ""
    platform: str = ""
    line: int = 0
    """First line in the Dockerfile; 0 when unknown."""
    text: str = ""
    """Its lines in the Dockerfile, as one."""


def definitions_of(provenance: bytes) -> dict[str, Definition]:
    """The definitions in a provenance (SLSA 1), by the digest of their step."""
    predicate = json.loads(provenance)
    build = predicate["buildDefinition"]
    configuration = build["internalParameters"].get("buildConfig", {})
    source = predicate["runDetails"]["metadata"].get("buildkit_metadata", {}).get("source", {})
    files = [
        base64.b64decode(info.get("data", "")).decode(errors="replace").splitlines()
        for info in source.get("infos", [])
    ]
    digests = {
        _image_of(entry["uri"]): f"sha256:{entry['digest']['sha256']}"
        for entry in build.get("resolvedDependencies", [])
        if entry["uri"].startswith("pkg:docker/") and "sha256" in entry.get("digest", {})
    }
    operations = {entry["id"]: entry["op"] for entry in configuration.get("llbDefinition", [])}
    return {
        digest: _definition(
            operations[name], source.get("locations", {}).get(name, {}), files, digests
        )
        for digest, name in configuration.get("digestMapping", {}).items()
        if name in operations
    }


def _definition(
    entry: dict[str, Any],
    locations: dict[str, Any],
    files: list[list[str]],
    digests: dict[str, str],
) -> Definition:
    operation = json.loads(json.dumps(entry.get("Op", {})))
    source = operation.get("source", {})
    identifier = source.get("identifier", "")
    image = image_digest = ""
    if identifier.startswith(_IMAGE):
        image, _, image_digest = identifier.removeprefix(_IMAGE).partition("@")
        image_digest = image_digest or digests.get(_short(image), "")
        source["identifier"] = _IMAGE + image
    elif identifier.startswith("local://"):
        # BuildKit's cache depends on the content of files, and not on which were sent.
        operation = {"source": {"identifier": identifier}}
    operation.get("exec", {}).get("meta", {}).pop("proxyEnv", None)
    platform = entry.get("platform", {})
    named = [platform.get(part) for part in ("OS", "Architecture", "Variant")]
    first, text = 0, ""
    for location in locations.get("locations", [])[:1]:
        ranges = location["ranges"]
        first = min(part["start"]["line"] for part in ranges)
        lines = files[location.get("sourceIndex", 0)] if files else []
        lines = lines[first - 1 : max(part["end"]["line"] for part in ranges)]
        text = " ".join(" ".join(line.strip().removesuffix("\\") for line in lines).split())
    return Definition(operation, image, image_digest, "/".join(filter(None, named)), first, text)


def _image_of(purl: str) -> str:
    """name:tag of a package URL such as pkg:docker/alpine@3.22?platform=linux%2Famd64."""
    name, _, tag = purl.removeprefix("pkg:docker/").partition("?")[0].partition("@")
    return f"{name}:{tag}" if tag else name


def _short(image: str) -> str:
    """An image's name without what it has by default, as package URLs have it."""
    return image.removeprefix("docker.io/").removeprefix("library/")


@dataclass(frozen=True)
class Details:
    """A build that has ended, with its steps and their definitions."""

    record: Record
    steps: list[Step]
    definitions: dict[str, Definition]
    """By digest; empty for a build that failed, and where the provenance has another form."""

    @property
    def ran(self) -> list[Step]:
        """The steps that ran or came from the cache, in the order in which they started."""
        started = [step for step in self.steps if step.started is not None]
        return sorted(started, key=lambda step: (step.started or 0, step.completed or 0))

    def times(self, step: Step) -> tuple[float, float]:
        """When the step started after the build did, and how long it took, in seconds."""
        first = self.record.started
        start = max(0.0, (step.started or first) - first)
        end = (step.completed or self.record.completed or first) - first
        return start, max(0.0, end - start)

    def label(self, step: Step) -> str:
        """Its name, with the instruction as in the Dockerfile; no values of build arguments."""
        definition = self.definitions.get(step.digest)
        if step.is_instruction and definition and definition.text:
            return f"{step.place} {definition.text}"
        return self.record.masked(step.name)


class RemovedError(LookupError):
    """The daemon has removed the record of a build since it was listed."""


class History:
    """The history of one daemon over an open connection; reads each build once."""

    def __init__(self, buildkit: BuildKit) -> None:
        self._buildkit = buildkit
        self._steps: dict[str, list[Step]] = {}
        self._details: dict[str, Details] = {}

    @classmethod
    @contextmanager
    def of(cls, host: HostDocker, builder: str) -> Iterator[History]:
        """The history of the builder with this name on the host, while the connection is open.

        Raises OSError, with docker's errors, when BuildKit cannot be reached or refuses.
        """
        daemon = ("exec", "--interactive", "--user", DAEMON_USER, f"{builder}-daemon")
        dial = host.command_line(*daemon, "docker", "buildx", "dial-stdio")
        with BuildKit.connected(dial) as buildkit:
            yield cls(buildkit)

    def records(self) -> list[Record]:
        """The builds at work and those that the daemon remembers, the oldest first.

        Those of the readiness check are left out.
        """
        found: dict[str, Record] = {}
        for event in self._buildkit.history():
            record = Record.parse(event)
            if record and not any(image.startswith(_READINESS) for image in record.images):
                found[record.ref] = record
        return sorted(found.values(), key=lambda record: record.started)

    def build(self, record: Record) -> Build:
        """The record with its steps counted, unless it runs."""
        return summary(record, [] if record.completed is None else self.steps(record))

    def builds(self, records: list[Record]) -> list[Build]:
        """The builds of these records, without those that the daemon removes meanwhile."""
        found = []
        for record in records:
            with suppress(RemovedError), self._unless_removed(record):
                found.append(self.build(record))
        left = {record.ref for record in self.records()}
        return [build for build in found if build.ref in left]

    def recent(self, records: list[Record]) -> list[Build]:
        """The builds of the last 50 of these records that run or have steps of a Dockerfile."""
        builds = self.builds(records[-_RECENT:])
        return [build for build in builds if build.steps or build.seconds is None]

    @contextmanager
    def _unless_removed(self, record: Record) -> Iterator[None]:
        """Raises RemovedError in place of BuildKit's error where the record is gone."""
        try:
            yield
        except grpc.RpcError:
            if any(other.ref == record.ref for other in self.records()):
                raise
            raise RemovedError(record.ref) from None

    def steps(self, record: Record) -> list[Step]:
        """The steps of a build that has ended."""
        if record.ref not in self._steps:
            self._steps[record.ref] = steps_of(self._buildkit.status(record.ref))
        return self._steps[record.ref]

    def details(self, record: Record) -> Details:
        """All about a build that has ended. Raises RemovedError when it has been removed."""
        if record.ref not in self._details:
            definitions: dict[str, Definition] = {}
            with self._unless_removed(record):
                for digest in record.provenance:
                    definitions |= definitions_of(self._buildkit.content(digest))
                self._details[record.ref] = Details(record, self.steps(record), definitions)
        return self._details[record.ref]

    def all_details(self, records: list[Record]) -> list[Details]:
        """The details of these records, without those that have been removed."""
        found = []
        for record in records:
            with suppress(RemovedError):
                found.append(self.details(record))
        return found

    def cache_times(self) -> list[float]:
        """When each result in the cache was made, in seconds since 1970."""
        records = self._buildkit.disk_usage().records
        return [seconds(entry.created) for entry in records if entry.type == "regular"]


@dataclass(frozen=True)
class Day:
    """The builds that started on one day and have ended."""

    date: str
    """YYYY-MM-DD, in UTC."""
    builds: int
    failed: int


def days_of(records: list[Record]) -> list[Day]:
    """The days on which builds started, the oldest first."""
    dates: dict[str, list[bool]] = {}
    for record in records:
        if record.completed is not None:
            at = datetime.datetime.fromtimestamp(record.started, datetime.UTC)
            dates.setdefault(f"{at:%Y-%m-%d}", []).append(record.error is not None)
    return [Day(date, len(failed), sum(failed)) for date, failed in sorted(dates.items())]
