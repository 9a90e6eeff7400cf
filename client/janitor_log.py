"""The log of the janitor, as `docker logs --timestamps` prints it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

_ENTRY = re.compile(r"^(\S+?)(?:\.\d+)?Z \[janitor\] (.*)$", re.MULTILINE)


def entries(log: str) -> Iterator[tuple[datetime.datetime, str]]:
    """Time, to the second, and text of each entry, in the log's order."""
    for time, text in _ENTRY.findall(log):
        yield datetime.datetime.fromisoformat(time).replace(tzinfo=datetime.UTC), text
