"""Reads one builder: the daemon, its disk, and what the other parts report."""

from __future__ import annotations

import datetime
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .builds import Builds
from .engine import Engine, EngineError, State
from .families import LEAST_FREE, REMOVAL_CAUSES, REMOVAL_KINDS, HostKey, Metrics, Reading

_STALE_SECONDS = 75
"""Age of a report that no longer counts: health checks are 30 seconds apart and take up to 15."""
_EVERY_SECONDS = 15
# The daemon takes longer to answer with a large cache; it is asked a twentieth of the time at most.
_PAUSES = 20
_LONGEST_SECONDS = 60
# While the daemon does not answer.
_SOON_SECONDS = 2


@dataclass(frozen=True)
class Places:
    """Where things are in the container."""

    reports: Path
    data: Path
    """The volume with the cache."""
    access: Path
    """The volume with the list of keys and identities that may log in."""


class _Growth:
    """By how much a count has grown that begins with 0 again when its part is replaced."""

    def __init__(self) -> None:
        self._last: int | None = None

    def to(self, count: int) -> int:
        """The growth since the last call; 0 at the first."""
        last, self._last = self._last, count
        if last is None:
            return 0
        return count - last if count >= last else count


class Reader:
    """Takes readings of the builder with this name."""

    def __init__(
        self,
        builder: str,
        engine: Engine,
        places: Places,
        *,
        parts: list[str],
        host_keys: list[str],
        cache_limit: int,
        image_store: str,
    ) -> None:
        self.metrics = Metrics()
        self.metrics.begin(builder)
        self.builds = Builds(engine, self.metrics, builder)
        self._builder, self._engine, self._places = builder, engine, places
        self._parts, self._cache_limit, self._image_store = parts, cache_limit, image_store
        self._host_keys = [tuple(map(int, word.split(":"))) for word in host_keys]
        self._growths: dict[tuple[str, ...], _Growth] = {}
        self._state: State | None = None
        self._no_state = ""
        self._asked = self._due = 0.0
        self._seen: object = None

    def has_news(self) -> bool:
        """Whether a part has reported, a build has begun or ended, or the daemon is to be asked."""
        return self._news() != self._seen or time.monotonic() >= self._due

    def _news(self) -> object:
        reported = [_time_of(self._places.reports / part) for part in self._parts]
        return reported, self.builds.running, self.builds.ended, self.builds.problem

    def _ask(self) -> None:
        """Ask the daemon, and decide when to ask it again."""
        start, self._asked = time.monotonic(), time.time()
        try:
            self._state, self._no_state = self._engine.state(), ""
        except EngineError as error:
            self._state, self._no_state = None, str(error)
        now = time.monotonic()
        pause = min(max(_EVERY_SECONDS, _PAUSES * (now - start)), _LONGEST_SECONDS)
        self._due = now + (pause if self._state else _SOON_SECONDS)

    def read(self) -> str:
        """Read the builder once; why some of it cannot be read, empty when all of it can."""
        self._seen = self._news()
        if time.monotonic() >= self._due:
            self._ask()
        figures = {
            "builder_read_timestamp_seconds": self._asked,
            "builder_cache_limit_bytes": float(self._cache_limit),
            **_disk(self._places.data),
        }
        info: dict[str, str] = {}
        problem = self._no_state or self.builds.problem
        if not self.builds.problem:
            figures["builder_running_builds"] = len(self.builds.running)
        if state := self._state:
            info = {"version": state.version, "image_store": self._image_store}
            figures["builder_cache_bytes"] = state.cache
            figures["builder_images_bytes"] = state.images
            if state.started:
                figures["builder_start_timestamp_seconds"] = state.started
        parts = {"daemon": bool(info)}
        parts |= {part: self._report(part) == "0" for part in self._parts}
        names, ends = _clients(self._places.access / "list")
        low = [
            figures["builder_disk_free_bytes"] < LEAST_FREE * figures["builder_disk_bytes"],
            figures["builder_disk_free_inodes"] < LEAST_FREE * figures["builder_disk_inodes"],
        ]
        self.metrics.take(
            [
                Reading(
                    self._builder,
                    is_up=not problem,
                    problems=list(parts.values()).count(False) + sum(low),
                    figures=figures,
                    info=info,
                    parts=parts,
                    sessions=self._take_connections(names),
                    ends=ends,
                    host_keys=[
                        HostKey(generation, presented=place == 0, age=time.time() - created)
                        for place, (generation, created) in enumerate(self._host_keys)
                        if created
                    ],
                )
            ]
        )
        self._take_removals()
        unheard = [part for part in self._parts if not _time_of(self._places.reports / part)]
        return problem or (f"not reported yet: {', '.join(unheard)}" if unheard else "")

    def _report(self, name: str) -> str:
        """What was reported under this name, empty when that is too old."""
        path = self._places.reports / name
        if time.time() - _time_of(path) / 1e9 > _STALE_SECONDS:
            return ""
        return path.read_text(errors="replace").strip()

    def _grown(self, *name: str, count: str) -> int:
        return self._growths.setdefault(name, _Growth()).to(int(count))

    def _take_connections(self, names: list[str]) -> Mapping[str, int]:
        """Count refused logins; the open connections by name, none while they are not known."""
        lines = [line.split() for line in self._report("connections").splitlines()]
        if not lines:
            return {}
        sessions = Counter(words[1] for words in lines if words[0] == "session")
        for words in lines:
            if words[0] == "refused":
                refused = self._grown("refused", count=words[1])
                self.metrics.count_refused(self._builder, refused)
        return {name: sessions[name] for name in sorted({*names, *sessions})}

    def _take_removals(self) -> None:
        try:
            text = (self._places.reports / "removals").read_text()
        except FileNotFoundError:
            text = ""
        counts = {(kind, cause): "0" for kind in REMOVAL_KINDS for cause in REMOVAL_CAUSES}
        for line in text.splitlines():
            cause, kind, count = line.split("\t")
            counts[kind, cause] = count
        for (kind, cause), count in counts.items():
            grown = self._grown(kind, cause, count=count)
            self.metrics.count_removed(self._builder, kind, cause, grown)


def _time_of(path: Path) -> int:
    """When the file was written, in nanoseconds since 1970; 0 when it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _disk(folder: Path) -> dict[str, float]:
    """Size of the disk, as df shows it."""
    found = os.statvfs(folder)
    return {
        "builder_disk_bytes": found.f_blocks * found.f_frsize,
        "builder_disk_free_bytes": found.f_bavail * found.f_frsize,
        "builder_disk_inodes": found.f_files,
        "builder_disk_free_inodes": found.f_ffree,
    }


def _clients(path: Path) -> tuple[list[str], dict[str, float]]:
    """The names of all keys and identities that may log in, and when those end that do."""
    names, ends = [], {}
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] not in (["key"], ["ca"], ["rule"]):
            continue
        name, until = words[2:4]
        names.append(name)
        if until != "-":
            last = datetime.datetime.strptime(until, "%Y%m%d%H%M%S")
            ends[name] = last.replace(tzinfo=datetime.UTC).timestamp() + 1
    return names, ends
