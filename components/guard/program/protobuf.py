"""The top-level fields of one protobuf message, read as its bytes arrive.

Wire format: protobuf.dev/programming-guides/encoding. Contents of fields are skipped, so a message
of any size needs no memory.
"""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class Fields:
    """The fields of a message; raises ValueError for bytes that readers interpret differently."""

    def __init__(self) -> None:
        self.lengths: dict[int, int] = {}
        """Bytes of the last occurrence of each field; 0 for numbers."""
        self._field = 0
        self._wanted: str = "tag"
        self._skip = 0
        self._value = 0
        self._digits = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes. Raises ValueError."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            byte = data[at]
            at += 1
            self._value |= (byte & 0x7F) << (7 * self._digits)
            self._digits += 1
            if byte & 0x80:
                if self._digits == _LONGEST_VARINT:
                    raise ValueError("a number is too long")
                continue
            value, self._value, self._digits = self._value, 0, 0
            self._number(value)

    def _number(self, value: int) -> None:
        if self._wanted == "length":
            if value >= 1 << 31:
                raise ValueError("a field is too long")
            self.lengths[self._field] = self._skip = value
            self._wanted = "tag"
        elif self._wanted == "value":
            self._wanted = "tag"
        else:
            # Readers truncate a larger tag to 32 bits, which gives another field.
            if value >= 1 << 32 or value < 8:
                raise ValueError("a field has no valid number")
            self._field, wire = value >> 3, value & 7
            self.lengths[self._field] = 0
            if wire == _VARINT:
                self._wanted = "value"
            elif wire == _LENGTH:
                self._wanted = "length"
            elif wire in (_FIXED32, _FIXED64):
                self._skip = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"a field has the wire type {wire}")

    def end(self) -> None:
        """The message ends here. Raises ValueError when it is cut short."""
        if self._skip or self._digits or self._wanted != "tag":
            raise ValueError("it is cut short")
