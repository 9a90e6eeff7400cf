"""BuildKit's own API, of which the client reads the history and the list of the cache.

Its messages are in components/metrics/program/messages.py, which the metrics use too.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from components.metrics.program import messages

_CONTROL = "/moby.buildkit.v1.Control/"
_CONTENT = "/containerd.services.content.v1.Content/"
_SECONDS = 20
# The list of a large cache is longer than the 4 MB that gRPC accepts by default.
_LARGEST_ANSWER = 64 * 1024 * 1024


def _classes() -> dict[str, Any]:
    """A class for each message."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="client/buildkit.proto",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )
    for message, fields in messages.FIELDS.items():
        entry = file.message_type.add(name=message)
        for number, name, kind in messages.fields_of(fields):
            field = entry.field.add(name=name, number=number)
            many, kind = kind.startswith("*"), kind.removeprefix("*")
            field.label = field_type.LABEL_REPEATED if many else field_type.LABEL_OPTIONAL
            if kind == messages.TIME or kind[0].isupper():
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in messages.FIELDS
    }


MESSAGES = _classes()


class BuildKit:
    """A connection to BuildKit. Its methods raise grpc.RpcError while `connected` is open."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    @classmethod
    @contextmanager
    def connected(cls, dial: list[str]) -> Iterator[BuildKit]:
        """A connection that is the standard input and output of the command `dial`.

        Raises OSError, with the command's errors, when BuildKit cannot be reached or refuses.
        """
        with _socket_of(dial) as (address, complaints):
            options = [
                ("grpc.default_authority", "localhost"),
                ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            ]
            channel = grpc.insecure_channel(address, options)
            try:
                yield cls(channel)
            except grpc.RpcError as error:
                why = complaints.read_text(errors="replace").strip()
                raise OSError(why or str(error.details())) from None
            finally:
                channel.close()

    def history(self) -> Iterator[Any]:
        """A BuildHistoryEvent for each build at work and each remembered one."""
        return self._stream(_CONTROL + "ListenBuildHistory", "BuildHistory", "Event", early_exit=1)

    def status(self, ref: str) -> Iterator[Any]:
        """The StatusResponses of a build; while it runs, until it ends."""
        return self._stream(_CONTROL + "Status", "Status", "Response", ref=ref)

    def disk_usage(self) -> Any:
        """The DiskUsageResponse with all records of the cache."""
        [answer] = self._stream(_CONTROL + "DiskUsage", "DiskUsage", "Response")
        return answer

    def content(self, digest: str) -> bytes:
        """A blob that a build's record refers to."""
        answers = self._stream(_CONTENT + "Read", "ReadContent", "Response", digest=digest)
        return b"".join(answer.data for answer in answers)

    def _stream(self, method: str, name: str, answer: str, **fields: Any) -> Iterator[Any]:
        call = self._channel.unary_stream(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES[name + answer].FromString,
        )
        return iter(call(MESSAGES[f"{name}Request"](**fields), timeout=_SECONDS))


@contextmanager
def _socket_of(command: list[str]) -> Iterator[tuple[str, Path]]:
    """The address of a socket whose one connection is the command's standard input and output.

    The second value is the file with the command's standard error.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path, complaints = Path(folder, "socket"), Path(folder, "stderr")
        complaints.touch()
        server.bind(str(path))
        server.listen(1)
        started: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            with suppress(OSError):  # closed before anything connected
                client, _ = server.accept()
                with client, complaints.open("w") as stderr:
                    stream = client.fileno()
                    started.append(
                        subprocess.Popen(command, stdin=stream, stdout=stream, stderr=stderr)
                    )

        threading.Thread(target=start, daemon=True).start()
        try:
            yield f"unix:{path}", complaints
        finally:
            for process in started:
                process.kill()
                process.wait()
