"""The builds of one daemon, as they begin and end."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from .engine import Engine
from .families import Metrics
from .messages import Message
from .records import Record, steps_of, summary

_RETRY_SECONDS = 2
_REMEMBERED = 1000


class Builds(threading.Thread):
    """Counts the builds that end from now on, in a thread of its own."""

    def __init__(self, engine: Engine, metrics: Metrics, builder: str) -> None:
        super().__init__(daemon=True)
        self.running: set[str] = set()
        """The builds at work."""
        self.ended = 0
        """How many have been counted."""
        self.problem = "the history of builds has not been asked for yet"
        """Why builds are not counted; empty when they are."""
        self._engine, self._metrics, self._builder = engine, metrics, builder
        self._since = time.time()
        self._counted: OrderedDict[str, None] = OrderedDict()

    def run(self) -> None:
        """Listen until the process ends, again and again."""
        while True:
            try:
                self._engine.check_build_events()
                self.problem = ""
                for event in self._engine.build_events():
                    self.take(event)
            except Exception as error:  # whatever it is, the health check shows it
                self.problem = str(error) or repr(error)
            self.running = set()
            time.sleep(_RETRY_SECONDS)

    def take(self, event: Message) -> None:
        """Use a BuildHistoryEvent. Raises ValueError."""
        record = Record.parse(event)
        if record is None or record.is_readiness:
            return
        if record.completed is None:
            self.running = self.running | {record.ref}
            return
        self.running = self.running - {record.ref}
        # BuildKit sends the record of an old build again when somebody pins it or adds a trace.
        if record.completed < self._since or record.ref in self._counted:
            return
        self._counted[record.ref] = None
        if len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        try:
            steps = steps_of(self._engine.build_status(record.ref))
        except OSError:  # the daemon has removed the record meanwhile, or has ended
            steps = []
        build = summary(record, steps)
        self._metrics.count_build(
            self._builder,
            failed=build.failed,
            seconds=build.seconds or 0,
            steps=build.steps,
            cached=build.cached,
        )
        self.ended += 1
