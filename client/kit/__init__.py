"""Write a client kit: what one person needs to build on the builder, except the private key.

A kit is a folder (or a tar of it) with the command `builder` and the shell files that it sources, a
README, and for each builder a folder with its ssh configuration, pinned host keys and the public
key.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from client.stack import Stack, StackError
from components.settings import AuthorizedKey

COMMAND_FILES = ("builder", "connection.sh", "setup.sh", "doctor.sh", "ahead.py")
"""The command, what it sources, and what it starts where there is Python; the same in every kit."""

_FOLDER = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m client kit`."""
    parser.add_argument(
        "--key", required=True, help="the key's name in the setting keys, or its .pub file"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write, or a file that ends in .tar; default: the folder ALIAS-KEY here",
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Write the kit. Raises StackError if `--out` is a folder that is no kit."""
    key = stack.key(options.key)
    out = options.out or Path(f"{stack.alias}-{key.name}")
    files = kit_files(stack, key)
    if out.suffix == ".tar":
        out.write_bytes(_archive(out.stem, files))
    else:
        if out.exists() and not (out / "builder").is_file():
            raise StackError(f"--out {out} exists and is no kit; next: name another folder")
        for name, text in files.items():
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        (out / "builder").chmod(0o755)
    print(f"{out} is the kit for {key.name}. It holds no secret. In the kit, on their machine:")
    print("  sh builder install && ~/.builder/builder on")
    return 0


def kit_files(stack: Stack, key: AuthorizedKey) -> dict[str, str]:
    """The files of a kit for this key, by their path in it."""
    files = {name: (_FOLDER / name).read_text() for name in COMMAND_FILES}
    files["README.md"] = (
        (_FOLDER / "README.template.md")
        .read_text()
        .replace("@alias@", stack.alias)
        .replace("@key@", f"{key.name} ({key.public_key.fingerprint})")
        .replace("@windows@", windows_config(stack))
    )
    for one in stack.each:
        files[f"{one.alias}/ssh_config"] = ssh_config(one)
        files[f"{one.alias}/known_hosts"] = one.known_hosts
        # People of an authority log in with certificates, whose keys the stack does not know.
        if not key.is_authority:
            files[f"{one.alias}/key.pub"] = f"{key.public_key} {key.name}\n"
    return files


def ssh_config(stack: Stack) -> str:
    """The Host block (ssh_config(5)), to which `builder install` adds the paths of that machine.

    It lists no key exchange algorithms: the gateway offers only fast ones, and an older ssh refuses
    a list with a name that it does not know.
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
    """The same for the OpenSSH of Windows, which cannot share a connection."""
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
