"""How fast a build step uses its network and its disk: prints one line of MB/s for each."""

import os
import socket
import sys
import time

CHUNK = bytes(1 << 20)


def connected(address: str, port: int, word: bytes) -> socket.socket:
    connection = socket.create_connection((address, port))
    connection.sendall(word)
    return connection


def download(address: str, port: int, megabytes: int) -> None:
    buffer = bytearray(1 << 20)
    left = megabytes * 1_000_000
    with connected(address, port, b"d") as connection:
        while left > 0:
            received = connection.recv_into(buffer)
            if not received:
                sys.exit("the server ended too early")
            left -= received


def upload(address: str, port: int, megabytes: int) -> None:
    left = megabytes * 1_000_000
    with connected(address, port, b"u") as connection:
        while left > 0:
            connection.sendall(CHUNK)
            left -= len(CHUNK)
        connection.shutdown(socket.SHUT_WR)
        # The server answers when it has everything.
        connection.recv(1)


def write(_address: str, _port: int, megabytes: int) -> None:
    left = megabytes * 1_000_000
    with open("/written", "wb") as file:
        while left > 0:
            file.write(CHUNK)
            left -= len(CHUNK)
        file.flush()
        os.fsync(file.fileno())
    os.unlink("/written")


for what in (download, upload, write):
    start = time.monotonic()
    what(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(f"{what.__name__}={int(sys.argv[3]) / (time.monotonic() - start):.1f}", flush=True)
