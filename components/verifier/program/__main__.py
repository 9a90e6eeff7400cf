"""Check tokens that arrive at a socket.

Usage: python -m verifier serve RULES SOCKET | python -m verifier ping SOCKET

A client sends the line of a public key, the token and its end; the answer is one line,
`accepted NAME UNTIL` or `refused REASON`. To `ping` the answer is `ok`, or what is wrong.
"""

from __future__ import annotations

import asyncio
import datetime
import signal
import socket
import sys
import time
from pathlib import Path

from .enrolled import Enrolled, PublicKey
from .issuers import Issuer
from .rules import Rule, shown
from .tokens import MOST_BYTES, Refused, check

_READ_SECONDS = 10
_RULES_SECONDS = 1
_MOST_CONNECTIONS = 500
_BACKLOG = 512


def _log(line: str) -> None:
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


class Verifier:
    """The rules, the issuers and the keys that were let in."""

    def __init__(self, rules: Path, folder: Path) -> None:
        self._file = rules
        self._text = ""
        self._rules: list[Rule] = []
        self._issuers: dict[str, Issuer] = {}
        self._enrolled = Enrolled(folder)
        self._connections = asyncio.Semaphore(_MOST_CONNECTIONS)

    def read_rules(self) -> None:
        """Read the rules if their file has changed, and forget keys that they no longer allow."""
        text = self._file.read_text()
        if text != self._text:
            self._rules = Rule.read(text)
            self._text = text
            wanted = {rule.issuer: rule.issuer_ca for rule in self._rules}
            self._issuers = {
                url: known
                if (known := self._issuers.get(url)) and known.ca == ca
                else Issuer(url, ca, _log)
                for url, ca in wanted.items()
            }
            _log(f"rules: {', '.join(rule.name for rule in self._rules) or 'none'}")
            self._enrolled.keep(self._rules)
            self._enrolled.write(self._rules)
        elif self._enrolled.keep(self._rules):
            self._enrolled.write(self._rules)

    async def refresh(self) -> None:
        """Read the keys of all issuers whose keys are old."""
        await asyncio.gather(*(issuer.refresh() for issuer in self._issuers.values()))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        async with self._connections:
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    request = await _read(reader)
                if request == b"ping\n":
                    problems = [issuer.problem for issuer in self._issuers.values()]
                    line = "; ".join(filter(None, problems)) or "ok"
                else:
                    line = await self._enrol(request)
                writer.write(f"{line}\n".encode())
                async with asyncio.timeout(_READ_SECONDS):
                    await writer.drain()
            except (OSError, TimeoutError):
                pass
            finally:
                writer.close()

    async def _enrol(self, request: bytes) -> str:
        fingerprint = "-"
        try:
            line, _, token = request.partition(b"\n")
            key = PublicKey.parse(line.decode("ascii", "replace"))
            fingerprint = key.fingerprint
            token = token.strip()
            self.read_rules()
            rule, claims = await check(token, fingerprint, self._rules, self._issuers)
            if all(rule.digest != one.digest for one in self._rules):
                raise Refused("the rule has just been removed", shown(claims))
            until = self._enrolled.add(key, token, rule, claims)
            self._enrolled.write(self._rules)
        except Refused as refused:
            job = f" {refused.job}" if refused.job else ""
            _log(f'refused key={fingerprint}{job} reason="{refused}"')
            return f"refused {refused}"
        except Exception as wrong:
            # Only the kind: the text of an error could contain some of the token.
            _log(f"refused key={fingerprint} error={type(wrong).__name__}")
            return "refused the verifier could not check the token"
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
        _log(f"accepted name={rule.name} {shown(claims)} key={fingerprint} until={end}")
        return f"accepted {rule.name} {end}"


async def _read(reader: asyncio.StreamReader) -> bytes:
    """All that the client sends, up to somewhat more than the longest token."""
    received = b""
    while len(received) <= MOST_BYTES + 1024:
        part = await reader.read(65536)
        if not part:
            break
        received += part
    return received


async def _serve(rules: Path, path: Path) -> None:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    verifier = Verifier(rules, path.parent)
    verifier.read_rules()
    await verifier.refresh()
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(verifier.answer, path, backlog=_BACKLOG)
    _log("verifier is listening")
    waiting = asyncio.create_task(ending.wait())
    asking: asyncio.Task[None] | None = None
    async with server:
        while not (await asyncio.wait({waiting}, timeout=_RULES_SECONDS))[0]:
            verifier.read_rules()
            if asking is None or asking.done():
                asking = asyncio.create_task(verifier.refresh())


def _ping(path: str) -> int:
    """Ask whether the keys of all issuers are known; return the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"ping\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096).decode(errors="replace").strip()
    print(answer)
    return 0 if answer == "ok" else 1


def main(verb: str, *paths: str) -> int:
    if verb == "ping":
        return _ping(*paths)
    asyncio.run(_serve(*map(Path, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
