"""Messages of BuildKit's API in protobuf's wire format, with the fields that are read here.

They are those of moby/buildkit, api/services/control/control.proto, and of containerd's
content.proto. A container cannot have protobuf's own package, which is 0.9 MB of Python.
"""

from __future__ import annotations

from typing import Any

TIME = "google.protobuf.Timestamp"
FIELDS = {
    "Pair": "1 key string, 2 value string",
    "Descriptor": "2 digest string, 5 annotations *Pair",
    "Exporter": "1 type string, 2 attrs *Pair",
    "Status": "1 code int32, 2 message string",
    "Result": "2 attestations *Descriptor",
    "NamedResult": "1 key string, 2 value Result",
    "Record": (
        f"1 ref string, 2 frontend string, 3 attrs *Pair, 4 exporters *Exporter, 5 error Status, "
        f"6 created {TIME}, 7 completed {TIME}, 10 result Result, 11 results *NamedResult"
    ),
    "BuildHistoryRequest": "1 active_only bool, 2 ref string, 3 early_exit bool",
    "BuildHistoryEvent": "1 type int32, 2 record Record",
    "Vertex": (
        f"1 digest string, 2 inputs *string, 3 name string, 4 cached bool, 5 started {TIME}, "
        f"6 completed {TIME}, 7 error string"
    ),
    "VertexStatus": "1 id string, 2 vertex string, 3 name string, 4 current int64",
    "StatusRequest": "1 ref string",
    "StatusResponse": "1 vertexes *Vertex, 2 statuses *VertexStatus",
    "UsageRecord": f"6 created {TIME}, 10 type string",
    "DiskUsageRequest": "",
    "DiskUsageResponse": "1 records *UsageRecord",
    "ReadContentRequest": "1 digest string",
    "ReadContentResponse": "2 data bytes",
}
"""Fields of each message: number, name, type. A capital begins the name of a message; * is a list.
"""

_TIME_FIELDS = "1 seconds int64, 2 nanos int32"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields_of(text: str) -> list[tuple[int, str, str]]:
    """Number, name and type of each field of a message in FIELDS."""
    fields = (field.split() for field in text.split(", ") if field)
    return [(int(number), name, kind) for number, name, kind in fields]


_BY_NUMBER = {
    message: {number: (name, kind) for number, name, kind in fields_of(text)}
    for message, text in {**FIELDS, TIME: _TIME_FIELDS}.items()
}


def encoded(name: str, **fields: bool | str) -> bytes:
    """A message with these fields; a text has less than 128 bytes."""
    content = b""
    for number, field, _ in fields_of(FIELDS[name]):
        value = fields.get(field, "")
        if isinstance(value, bool):
            content += bytes([number << 3 | _VARINT, value])
        elif value:
            text = value.encode()
            content += bytes([number << 3 | _BYTES, len(text)]) + text
    return content


def seconds(timestamp: Any) -> float:
    """Seconds since 1970 of a Timestamp."""
    return float(timestamp.seconds + timestamp.nanos / 1e9)


class Message:
    """A received message; its fields are attributes, as those of protobuf's classes are.

    Raises ValueError for bytes that are no such message. Fields that are not in FIELDS are left
    out. Negative numbers are not read.
    """

    def __init__(self, name: str, data: bytes = b"") -> None:
        self._kinds = dict(_BY_NUMBER[name].values())
        self._sent: dict[str, Any] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            value, at = _value(tag & 7, data, at)
            field, kind = _BY_NUMBER[name].get(tag >> 3, ("", ""))
            if not field:
                continue
            read = _read(kind.removeprefix("*"), value)
            if kind.startswith("*"):
                self._sent.setdefault(field, []).append(read)
            else:
                self._sent[field] = read

    def HasField(self, name: str) -> bool:
        """Whether the field was sent."""
        return name in self._sent

    def __getattr__(self, name: str) -> Any:
        if name in self._sent:
            return self._sent[name]
        kind = self._kinds.get(name)
        if kind is None:
            raise AttributeError(name)
        return [] if kind.startswith("*") else _read(kind, b"" if _is_long(kind) else 0)


def _is_long(kind: str) -> bool:
    return kind in ("string", "bytes") or kind in _BY_NUMBER


def _read(kind: str, value: Any) -> Any:
    """The value of a field of this type. Raises ValueError when it has another wire format."""
    if isinstance(value, bytes) != _is_long(kind):
        raise ValueError(f"a {kind} has another wire format")
    if kind == "string":
        return value.decode(errors="replace")
    if kind == "bool":
        return bool(value)
    return Message(kind, value) if kind in _BY_NUMBER else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")


def _value(wire: int, data: bytes, at: int) -> tuple[Any, int]:
    """The value that begins there, and where the next field begins."""
    if wire == _VARINT:
        return _varint(data, at)
    sizes = {_FIXED64: 8, _FIXED32: 4}
    if wire == _BYTES:
        size, at = _varint(data, at)
    elif wire in sizes:
        size = sizes[wire]
    else:
        raise ValueError(f"wire format {wire} is not known")
    if at + size > len(data):
        raise ValueError("a field is cut short")
    return bytes(data[at : at + size]), at + size
