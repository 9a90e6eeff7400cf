"""What BuildKit's records of builds mean: their results, and the steps that came from the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .messages import seconds

_DELETED = 2
_PROVENANCE = "https://slsa.dev/provenance/v1"
_READINESS = "docker-build-machine/readiness:"
# "[2/5] RUN make", "[linux/amd64 tests 2/5] COPY . ."; not what BuildKit does by itself, nor FROM.
_STEP = re.compile(r"\[(?:.* )?\d+/\d+\] (?!FROM )")
_PLACE = re.compile(r"\[[^]]*\] ")
_CONTEXT = re.compile(r"\[internal\] load build context|\[context [^]]*\] load from client")
_ARGUMENT = "build-arg:"


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
                short_name(name)
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

    @property
    def is_readiness(self) -> bool:
        """Whether components/readiness.sh has built it, as it does at each update."""
        return any(image.startswith(_READINESS) for image in self.images)

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


def short_name(image: str) -> str:
    """An image's name without what it has by default, as package URLs have it."""
    return image.removeprefix("docker.io/").removeprefix("library/")
