"""The fields of one protobuf message, read as its bytes arrive.

Wire format: protobuf.dev/programming-guides/encoding. Contents of fields are skipped, except those
that the reader names, so a message of any size needs little memory.
"""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10

Path = tuple[int, ...]
"""The number of a field, then that of a field in its message, and so on."""

TEXT = 64
"""Most bytes of a named field whose content is kept."""


class Fields:
    """The fields of a message; raises ValueError for bytes that readers interpret differently."""

    def __init__(self, *named: Path) -> None:
        """`named` are fields inside messages that are fields themselves."""
        self.lengths: dict[Path, int] = {}
        """Bytes of the last occurrence of each field; 0 for numbers."""
        self.texts: dict[Path, set[bytes]] = {}
        """The contents of the named fields that have 1 to TEXT bytes, of all occurrences."""
        self._named = frozenset(named)
        self._messages = {path[:end] for path in named for end in range(1, len(path))}
        # The path and the end of each message that is open now; the outermost has no end.
        self._open: list[tuple[Path, float]] = [((), float("inf"))]
        self._at = 0
        self._field: Path = ()
        self._wanted: str = "tag"
        self._skip = 0
        self._text: bytearray | None = None
        self._value = 0
        self._digits = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes. Raises ValueError."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                if self._text is not None:
                    self._text += data[at : at + step]
                self._skip -= step
                at += step
                self._passed(step)
                continue
            byte = data[at]
            at += 1
            self._value |= (byte & 0x7F) << (7 * self._digits)
            self._digits += 1
            if not byte & 0x80:
                value, self._value, self._digits = self._value, 0, 0
                self._number(value)
            elif self._digits == _LONGEST_VARINT:
                raise ValueError("a number is too long")
            self._passed(1)

    def _number(self, value: int) -> None:
        if self._wanted == "length":
            if value >= 1 << 31:
                raise ValueError("a field is too long")
            self._begin(value)
        elif self._wanted == "value":
            self._wanted = "tag"
        else:
            # Readers truncate a larger tag to 32 bits, which gives another field.
            if value >= 1 << 32 or value < 8:
                raise ValueError("a field has no valid number")
            self._field, wire = (*self._open[-1][0], value >> 3), value & 7
            self.lengths[self._field] = 0
            if wire == _VARINT:
                self._wanted = "value"
            elif wire == _LENGTH:
                self._wanted = "length"
            elif wire in (_FIXED32, _FIXED64):
                self._skip = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"a field has the wire type {wire}")

    def _begin(self, length: int) -> None:
        """The content of a field with this length follows."""
        self.lengths[self._field] = length
        self._wanted = "tag"
        if self._field in self._messages:
            # This number's last byte is not counted yet.
            end = self._at + 1 + length
            if end > self._open[-1][1]:
                raise ValueError("a field is longer than its message")
            self._open.append((self._field, end))
        else:
            self._skip = length
            if self._field in self._named and 0 < length <= TEXT:
                self._text = bytearray()

    def _passed(self, count: int) -> None:
        """So many bytes have been read; end what ends here."""
        self._at += count
        if not self._skip and self._text is not None:
            self.texts.setdefault(self._field, set()).add(bytes(self._text))
            self._text = None
        if self._at + self._skip > self._open[-1][1]:
            raise ValueError("a field is longer than its message")
        while self._at == self._open[-1][1]:
            if self._skip or self._digits or self._wanted != "tag":
                raise ValueError("a message in it is cut short")
            self._open.pop()

    def end(self) -> None:
        """The message ends here. Raises ValueError when it is cut short."""
        if self._skip or self._digits or self._wanted != "tag" or len(self._open) > 1:
            raise ValueError("it is cut short")
