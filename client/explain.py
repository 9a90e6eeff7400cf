"""Why the steps of a build did not come from the cache, by comparing it with earlier builds.

BuildKit records what defined each step, which steps were cached and when each ran. It does not
record cache keys, the content of files, or what was removed from the cache; where more than one of
these explains a step, the answer says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from client.history import Definition, Details, History, Record, Step
from client.janitor_log import entries

# The clock of the cache's records and that of the steps are the same; a result is made while its
# step runs.
_SLACK = 0.5
_COMPARED = 20
_CLEARED = re.compile(r".*removed .*\bcache .*")
# "[web 1/3] FROM alpine:3.22@sha256:00ff": all but the digest, the image, the digest.
_FROM = re.compile(r"(\[.*\] FROM ([^@ ]+))(?:@(\S+))?$")


class Cause(StrEnum):
    """Why a step ran."""

    FIRST = "first build"
    NO_CACHE = "no-cache"
    BEFORE = "step before it"
    INSTRUCTION = "instruction"
    ARGUMENT = "build argument"
    FILE = "file"
    BASE = "base image"
    PLATFORM = "platform"
    CLEARED = "cache cleared"
    UNFINISHED = "never completed"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Clearing:
    """The janitor removed cache, because the disk was nearly full."""

    time: float
    """Seconds since 1970."""
    text: str

    @classmethod
    def parse(cls, log: str) -> list[Clearing]:
        """What the janitor's log, with timestamps, says of cache that it removed."""
        return [
            cls(at.timestamp(), f"{at:%Y-%m-%d %H:%M:%S}, {text}")
            for at, text in entries(log)
            if _CLEARED.fullmatch(text)
        ]


@dataclass(frozen=True)
class Reason:
    """Why one step did not come from the cache. It never contains values of build arguments."""

    step: str
    """Its stage and number, and its instruction as in the Dockerfile."""
    line: int
    """In the Dockerfile; 0 when unknown."""
    cause: Cause
    text: str


def comparable(record: Record, records: list[Record]) -> list[Record]:
    """The builds before this one that built the same thing, the newest first, 20 at most.

    That is: the same Dockerfile and target of the same repository and folder or, where a client
    gave no repository, for an image of the same name.
    """
    before = [
        other
        for other in records
        if other.started < record.started
        and other.completed is not None
        and _dockerfile(other) == _dockerfile(record)
        and _same_source(other, record)
    ]
    return before[::-1][:_COMPARED]


def _dockerfile(record: Record) -> tuple[str, str]:
    return record.options.get("filename") or "Dockerfile", record.options.get("target", "")


def _same_source(one: Record, other: Record) -> bool:
    sources = [_source(record) for record in (one, other)]
    if all(sources):
        return sources[0] == sources[1]
    images = [{_untagged(name) for name in record.images} for record in (one, other)]
    return bool(images[0] & images[1]) if any(images) else not any(sources)


def _source(record: Record) -> tuple[str, ...]:
    """Repository and folder; empty when the client gave none."""
    if "vcs:source" in record.options:
        folders = (
            record.options.get(f"vcs:localdir:{name}", "") for name in ("context", "dockerfile")
        )
        return (record.options["vcs:source"], *folders)
    # As https://example.com/app.git#main:folder.
    url, _, reference = record.options.get("context", "").partition("#")
    return (url, reference.partition(":")[2]) if url else ()


def _untagged(image: str) -> str:
    return re.sub(r":[^:/]*$", "", image.partition("@")[0])


class _Graph:
    """The steps of one build. The key of a step depends on its definition and on all before it."""

    def __init__(self, details: Details, by_name: bool) -> None:
        self.details = details
        self.steps = {step.digest: step for step in details.steps}
        self._by_name = by_name
        self._keys: dict[str, str] = {}
        self.by_key = {self.key(digest): step for digest, step in self.steps.items()}

    @property
    def record(self) -> Record:
        return self.details.record

    @property
    def instructions(self) -> list[Step]:
        """The Dockerfile's steps; each after those that it needs."""
        ordered: dict[str, Step] = {}

        def visit(digest: str) -> None:
            if digest in self.steps and digest not in ordered:
                for other in self.steps[digest].inputs:
                    visit(other)
                ordered[digest] = self.steps[digest]

        for digest in self.steps:
            visit(digest)
        return [step for step in ordered.values() if step.is_instruction]

    def definition(self, step: Step) -> Definition:
        return self.details.definitions.get(step.digest) or Definition({})

    def key(self, digest: str) -> str:
        if digest not in self._keys:
            step = self.steps.get(digest) or Step(digest, digest, ())
            known = None if self._by_name else self.details.definitions.get(digest)
            own: Any = _FROM.sub(r"\1", step.name)
            if known:
                own = [known.operation, known.platform]
            elif step.is_instruction:
                # A name does not show an argument that a step has as a variable only.
                own = [own, self.record.arguments]
            text = json.dumps([own, *(self.key(other) for other in step.inputs)], sort_keys=True)
            self._keys[digest] = hashlib.sha256(text.encode()).hexdigest()
        return self._keys[digest]

    def before(self, step: Step) -> list[Step]:
        """The nearest steps of the Dockerfile whose results it uses."""
        return [other for other in self._inputs(step) if other.is_instruction]

    def sources(self, step: Step) -> list[Step]:
        """The images, contexts and addresses that it uses without another step between."""
        return [
            other for other in self._inputs(step) if not other.inputs and not other.is_instruction
        ]

    def _inputs(self, step: Step) -> Iterator[Step]:
        for digest in step.inputs:
            if other := self.steps.get(digest):
                yield other
                if not other.is_instruction:
                    yield from self._inputs(other)

    def images(self, step: Step) -> dict[str, str]:
        """Name and digest of each image on which the step is based, over any number of steps."""
        found: dict[str, str] = {}
        seen: set[str] = set()
        left = list(step.inputs)
        while left:
            digest = left.pop()
            if digest in self.steps and digest not in seen:
                seen.add(digest)
                left += self.steps[digest].inputs
                image, image_digest = self.image(self.steps[digest])
                if image:
                    found[image] = image_digest
        return found

    def image(self, step: Step) -> tuple[str, str]:
        """Name and digest of the image of a FROM; both are empty for other steps."""
        if known := self.details.definitions.get(step.digest):
            return known.image, known.image_digest
        match = _FROM.match(step.name)
        return (match[2], match[3] or "") if match else ("", "")

    def takes_files(self, step: Step) -> bool:
        """Whether it uses content that comes from the client or from an address."""
        for other in self.sources(step):
            known = self.details.definitions.get(other.digest)
            named = "] load " in other.name or other.is_download
            if not self.image(other)[0] and ("source" in known.operation if known else named):
                return True
        return False


def explain(
    build: Details, earlier: list[Details], made: list[float], clearings: list[Clearing]
) -> list[Reason]:
    """A reason for each step of the Dockerfile that ran; an empty list if all were cached.

    `earlier` are comparable builds, the newest first; `made` is when each result that is in the
    cache now was made, in seconds since 1970.
    """
    return _Explanation(build, earlier, made, clearings).reasons()


@dataclass(frozen=True)
class Explained:
    """A build that has ended, and why its steps ran."""

    details: Details
    reasons: list[Reason]


def explain_last(
    history: History, records: list[Record], count: int, clearings: list[Clearing]
) -> list[Explained]:
    """The last of these builds that have ended and ran steps of a Dockerfile, the newest first."""
    made = history.cache_times()
    ended = [record for record in records if record.completed is not None]
    explained = []
    for details in history.all_details(ended[-count:][::-1]):
        ran = [step for step in details.steps if step.is_instruction]
        if ran:
            earlier = [] if all(s.cached for s in ran) else comparable(details.record, records)
            reasons = explain(details, history.all_details(earlier), made, clearings)
            explained.append(Explained(details, reasons))
    return explained


class _Explanation:
    def __init__(
        self, build: Details, earlier: list[Details], made: list[float], clearings: list[Clearing]
    ) -> None:
        self._build, self._made, self._clearings = build, made, clearings
        self._earlier = earlier

    @cached_property
    def _pairs(self) -> list[tuple[_Graph, _Graph]]:
        """The build and each earlier one, by what both have: definitions, or names alone."""
        graphs = {by_name: _Graph(self._build, by_name) for by_name in (False, True)}
        return [
            (graphs[by_name], _Graph(other, by_name))
            for other in self._earlier
            if other.steps
            for by_name in [not (self._build.definitions and other.definitions)]
        ]

    def reasons(self) -> list[Reason]:
        graph = _Graph(self._build, not self._build.definitions)
        found: dict[str, Reason] = {}
        for step in graph.instructions:
            if step.started is None or step.cached:
                continue
            ran = [other for other in graph.before(step) if other.digest in found]
            if self._is_uncached(step):
                cause, text = Cause.NO_CACHE, "the client asked for it with --no-cache"
            elif ran:
                places = " and ".join(dict.fromkeys(other.place for other in ran))
                cause, text = Cause.BEFORE, f"{places}, on which it builds, ran"
            else:
                cause, text = self._first(step)
            line = graph.definition(step).line
            found[step.digest] = Reason(self._build.label(step), line, cause, text)
        return list(found.values())

    def _is_uncached(self, step: Step) -> bool:
        """Whether the client asked for it with --no-cache or --no-cache-filter."""
        if "no-cache" not in self._build.record.options:
            return False
        stages = self._build.record.options["no-cache"].split(",")
        words = step.place.strip("[]").split()
        return stages == [""] or any(stage in words[:-1] for stage in stages)

    def _first(self, step: Step) -> tuple[Cause, str]:
        """Why a step ran although all that it builds on came from the cache."""
        remade: str = ""
        for graph, other in self._pairs:
            prior = other.by_key.get(graph.key(step.digest))
            if prior and prior.completed is not None and not prior.failed:
                if base := _changed_images(graph.images(step), other.images(prior)):
                    return Cause.BASE, base
                if remade:
                    return Cause.UNFINISHED, remade
                return self._unused(step, graph, other.record.started)
            for needed in graph.before(step):
                same = other.by_key.get(graph.key(needed.digest))
                if same and same.started is not None and not same.cached and not remade:
                    remade = (
                        f"{needed.place}, on which it builds, ran in build "
                        f"{short(other.record)}, and this step did not complete there"
                    )
        return self._changed(step)

    def _unused(self, step: Step, graph: _Graph, known: float) -> tuple[Cause, str]:
        """Why a result of the same step was not used that was in the cache at the time `known`."""
        is_kept = False
        for here, other in self._pairs:
            prior = other.by_key.get(here.key(step.digest))
            if prior and prior.started is not None and prior.completed and not prior.cached:
                first, last = prior.started - _SLACK, prior.completed + _SLACK
                is_kept = any(first <= time <= last for time in self._made)
                break
        cleared = [c.text for c in self._clearings if known < c.time < self._build.record.started]
        janitor = f"; the janitor removed cache in between: {cleared[-1]}" if cleared else ""
        if graph.takes_files(step):
            files = _files(graph, step)
            if is_kept:
                return Cause.FILE, files
            return (
                Cause.UNKNOWN,
                f"{files}, or its earlier result had been cleared from the cache; which of the two "
                f"cannot be told, because that result is gone{janitor}",
            )
        if is_kept:
            return Cause.UNKNOWN, "nothing that BuildKit records explains it"
        return (
            Cause.CLEARED,
            "its result was no longer in the cache"
            + (
                janitor
                or ": removed by the limit (cacheSize), by docker builder prune, or with an image; "
                "the daemon does not record when"
            ),
        )

    def _changed(self, step: Step) -> tuple[Cause, str]:
        """Why no earlier build had the step."""
        if not self._pairs:
            return Cause.FIRST, "no earlier build of the same is remembered"
        platform = self._build.record.options.get("platform", "")
        alike = [p for p in self._pairs if p[1].record.options.get("platform", "") == platform]
        if not alike:
            others = {other.record.options.get("platform", "") for _, other in self._pairs}
            names = ", ".join(sorted(name or "the builder's own" for name in others))
            own = platform or "the builder's own"
            return Cause.PLATFORM, f"earlier builds were for another platform: {names}, not {own}"
        graph, other = next((p for p in alike if p[1].instructions), alike[0])
        old = _counterpart(graph, other, step)
        if old is None:
            if not other.instructions:
                return Cause.FIRST, "no earlier build of the same ran its steps"
            return Cause.INSTRUCTION, f"build {short(other.record)} did not have the instruction"
        return _difference(graph, step, other, old)


def short(record: Record) -> str:
    """The beginning of BuildKit's name of a build, which is enough to name it."""
    return record.ref[:8]


def _changed_images(now: dict[str, str], then: dict[str, str]) -> str:
    for image, digest in now.items():
        old = then.get(image, "")
        if digest and old and digest != old:
            return f"the base image {image} has another digest: {old[:19]} → {digest[:19]}"
    return ""


def _files(graph: _Graph, step: Step) -> str:
    """Which files changed, as far as BuildKit records it."""
    operation = graph.definition(step).operation
    copies = [
        action["Action"]["copy"]["src"].lstrip("/") or "."
        for action in operation.get("file", {}).get("actions", [])
        if "copy" in action.get("Action", {})
    ]
    what = ", ".join(copies)
    if not what or any(character in what for character in "*?["):
        return "a file that it takes from the build context or an address changed"
    return f"{what}, or a file in it, changed" if what != "." else "a file of the context changed"


def _counterpart(graph: _Graph, other: _Graph, step: Step) -> Step | None:
    """The step of the other build in whose place this one is."""
    gone = [o for o in other.instructions if other.key(o.digest) not in graph.by_key]
    needs = [graph.key(s.digest) for s in graph.before(step)]
    stage = step.place.rpartition(" ")[0]
    for candidate in gone:
        if [
            other.key(s.digest) for s in other.before(candidate)
        ] == needs and candidate.place.rpartition(" ")[0] == stage:
            return candidate
    return next((o for o in gone if o.place == step.place), None)


def _difference(graph: _Graph, step: Step, other: _Graph, old: Step) -> tuple[Cause, str]:
    """What differs between a step and its counterpart."""
    new, before = graph.definition(step), other.definition(old)
    arguments, earlier = graph.record.arguments, other.record.arguments
    passed = {n for n in {*arguments, *earlier} if arguments.get(n) != earlier.get(n)}
    bases = [
        [name for s in one.sources(of) if (name := one.image(s)[0])]
        for one, of in ((other, old), (graph, step))
    ]
    if new.platform and before.platform and new.platform != before.platform:
        return Cause.PLATFORM, f"another platform: {before.platform} → {new.platform}"
    if bases[0] != bases[1]:
        images = " → ".join(", ".join(names) or "none" for names in bases)
        return Cause.BASE, f"FROM names another image: {images}"
    if not (new.text and before.text):
        names = [other.record.masked(old.name), graph.record.masked(step.name)]
        argument = _named("build argument", passed) if passed else ""
        if names[0] != names[1]:
            what = (
                f"the instruction changed, or {argument}" if passed else "the instruction changed"
            )
            return Cause.INSTRUCTION, f"{what}; it was: {names[0]}"
        if passed:
            return Cause.ARGUMENT, argument
        return Cause.UNKNOWN, "its definition changed, but not in its name"
    if new.text != before.text:
        return Cause.INSTRUCTION, f"the instruction changed; it was: {before.text}"
    variables = _variables(new) ^ _variables(before)
    differing = {text.partition("=")[0] for text in variables}
    used = {n for n in passed if n in differing or re.search(rf"\$\{{?{n}\b", new.text)}
    if used or (passed and not differing):
        return Cause.ARGUMENT, _named("build argument", used or passed)
    if differing:
        text = _named("variable", differing)
        return Cause.INSTRUCTION, f"{text} (an ENV or ARG of the Dockerfile before it)"
    return Cause.UNKNOWN, "its definition changed, but neither its line nor a build argument did"


def _named(what: str, names: set[str]) -> str:
    return f"the {what}{'s' * (len(names) > 1)} {', '.join(sorted(names))} changed"


def _variables(definition: Definition) -> set[str]:
    return set(definition.operation.get("exec", {}).get("meta", {}).get("env", []))
