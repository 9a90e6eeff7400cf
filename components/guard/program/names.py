"""Hides the names of builds in answers of the daemon.

BuildKit gives each build a random name, its Ref. A key of role `build` that knows the name may read
the history and the log of the build. With containerd's image store the daemon shows the name to
everybody who looks at the image: as {"Ref":"NAME"} in `image inspect` and in lists of images, and
as the label moby/build.ref.NAME of the image's content.
"""

from __future__ import annotations

import re

_NAME = re.compile(rb'(?<="Ref":")[^"\r\n]+|(?<=moby/build\.ref\.)[!-~]+')
# More than a name and what is before it; a name is split between two reads anywhere.
_KEPT = 256


class Hidden:
    """A stream of bytes with an x for each byte of a name, so that no length changes."""

    def __init__(self) -> None:
        self._before = b""

    def __call__(self, data: bytes) -> bytes:
        """The next bytes."""
        known = self._before + data
        self._before = known[-_KEPT:]
        hidden = _NAME.sub(lambda name: b"x" * len(name[0]), known)
        return hidden[len(known) - len(data) :]
