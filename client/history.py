"""The builds that a daemon remembers: BuildKit's records, their steps and what defined them.

`docker buildx history` is no help: it counts BuildKit's own steps too (2 of 7 are cached where both
RUN lines of a Dockerfile are), and it needs an image of Docker 28, where `buildx dial-stdio` needs
one of 26.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from client.buildkit import connected
from components.docker_host import HostDocker
from components.layout import DAEMON_USER
from components.metrics.program.buildkit import BuildKit, BuildKitError
from components.metrics.program.messages import seconds
from components.metrics.program.records import Build, Record, Step, short_name, steps_of, summary

_IMAGE = "docker-image://"
_RECENT = 50


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
        image_digest = image_digest or digests.get(short_name(image), "")
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
        with connected(dial) as buildkit:
            yield cls(buildkit)

    def records(self) -> list[Record]:
        """The builds at work and those that the daemon remembers, the oldest first.

        Those of the readiness check are left out.
        """
        found: dict[str, Record] = {}
        for event in self._buildkit.history():
            record = Record.parse(event)
            if record and not record.is_readiness:
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
        except BuildKitError:
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
