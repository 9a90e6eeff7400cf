"""Write a client kit: all that one person needs to build on the builder, but the private key.

The kit is a folder (or a tar of it): the command `builder`, a POSIX shell script, a page to read,
and for each builder a folder with its ssh configuration, pinned host keys and the public key.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from client.stack import Key, Stack, StackError

_COMMAND = Path(__file__).parent / "builder.sh"
_PAGE = Path(__file__).parent / "kit.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "--key", required=True, help="name of the person's or job's key in `keys`, or its .pub file"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write, or a file that ends in .tar; without it, ALIAS-KEY in this folder",
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Write the kit. Raises StackError when its place is taken by something else."""
    key = stack.key(options.key)
    out = options.out or Path(f"{stack.alias}-{key.name}")
    files = kit_files(stack, key)
    if out.suffix == ".tar":
        out.write_bytes(_archive(out.stem, files))
    else:
        if out.exists() and not (out / "builder").is_file():
            raise StackError(f"--out {out} is there and is no kit; next: name another folder")
        for name, text in files.items():
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        (out / "builder").chmod(0o755)
    print(f"{out} is the kit for {key.name}. It holds no secret. On their machine, in the kit:")
    print("  sh builder install && ~/.builder/builder on")
    return 0


def kit_files(stack: Stack, key: Key) -> dict[str, str]:
    """The files of a kit for this key, by their path in it."""
    files = {
        "builder": _COMMAND.read_text(),
        "README.md": _PAGE.read_text()
        .replace("@alias@", stack.alias)
        .replace("@key@", f"{key.name} ({key.public_key.fingerprint})")
        .replace("@windows@", windows_config(stack)),
    }
    for one in stack.each:
        files[f"{one.alias}/ssh_config"] = ssh_config(one)
        files[f"{one.alias}/known_hosts"] = one.known_hosts
        # What logs in with an authority is a certificate, whose key the stack does not know.
        if not key.is_authority:
            files[f"{one.alias}/key.pub"] = f"{key.public_key} {key.name}\n"
    return files


def ssh_config(stack: Stack) -> str:
    """The Host block (ssh_config(5)), to which `builder install` adds the paths of this home.

    Key exchange is left to both sides' preferences: the gateway offers only fast ones, and a list
    here would end the ssh of whoever has an older release.
    """
    user, host, port = stack.address
    return f"""\
Host {stack.alias}
  HostName {host}
  Port {port}
  User {user}
  StrictHostKeyChecking yes
  GlobalKnownHostsFile /dev/null
  ControlMaster auto
  ControlPersist 2h
  StreamLocalBindUnlink yes
  ConnectTimeout 10
  ServerAliveInterval 10
  ServerAliveCountMax 3
  ForwardAgent no
"""


def windows_config(stack: Stack) -> str:
    """The same for Windows' own OpenSSH, which shares no connections and takes its known_hosts."""
    left_out = ("GlobalKnownHostsFile", "Control", "StreamLocal")
    lines = ssh_config(stack).splitlines()
    return "\n".join(line for line in lines if not line.strip().startswith(left_out))


def _archive(folder: str, files: dict[str, str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            content = text.encode()
            member.size = len(content)
            member.mode = 0o755 if name == "builder" else 0o644
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()
