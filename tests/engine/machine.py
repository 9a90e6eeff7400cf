"""A realistic host in QEMU: Debian with systemd, cgroup v2, AppArmor, sshd and Docker.

Its disk is made once from Debian packages and kept in the user's cache folder. Each machine boots a
copy of it, gets two forwarded ports of 127.0.0.1, and stops at the end of the block that started
it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.engine.conftest import AS_ROOT, Result, free_port, make_key, passed, run, until

PACKAGES = (
    "apparmor,apparmor-utils,ca-certificates,curl,dbus,docker-buildx,docker-cli,docker.io,"
    "e2fsprogs,git,iproute2,iptables,kmod,libpam-systemd,linux-image-cloud-amd64,make,"
    "netcat-openbsd,openssh-server,procps,python3,sudo,systemd,systemd-sysv,udev,uidmap"
)
# Shell script; $1 is the new root folder, $2 a folder with the keys. The user ops can use Docker,
# the user sudoer can become root.
SETTLE = """
echo host >"$1/etc/hostname"
printf '127.0.0.1 localhost host\\n' >"$1/etc/hosts"
printf '/dev/vda / ext4 defaults,noatime 0 1\\n' >"$1/etc/fstab"
printf 'nameserver 10.0.2.3\\n' >"$1/etc/resolv.conf"
printf '[Match]\\nName=eth*\\n[Network]\\nAddress=10.0.2.15/24\\nGateway=10.0.2.2\\n' \
	>"$1/etc/systemd/network/10.network"
chroot "$1" systemctl enable systemd-networkd
chroot "$1" systemctl disable systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer
chroot "$1" useradd --create-home --shell /bin/bash --groups docker ops
chroot "$1" useradd --create-home --shell /bin/bash sudoer
for home in root home/ops home/sudoer; do
	install -d -m 0700 "$1/$home/.ssh"
	install -m 0600 "$2/operator.pub" "$1/$home/.ssh/authorized_keys"
done
chroot "$1" chown -R ops: /home/ops
chroot "$1" chown -R sudoer: /home/sudoer
echo 'sudoer ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/sudoer"
chmod 0440 "$1/etc/sudoers.d/sudoer"
install -m 0600 "$2/host" "$1/etc/ssh/ssh_host_ed25519_key"
install -m 0644 "$2/host.pub" "$1/etc/ssh/ssh_host_ed25519_key.pub"
"""
MAKE = f"""
set -eu
mmdebstrap --quiet --variant=apt --components=main --include={PACKAGES} trixie "$1/root"
settle() {{ {SETTLE} }}
settle "$1/root" "$1"
cp "$1/root"/boot/vmlinuz-* "$1/kernel"
cp "$1/root"/boot/initrd.img-* "$1/initrd"
truncate --size 14G "$1/disk"
/usr/sbin/mkfs.ext4 -q -F -d "$1/root" "$1/disk"
rm -r --one-file-system "$1/root"
chown -R "$2" "$1"
"""
FOLDER = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "docker-build-machine"
    / f"machine-{hashlib.sha256(MAKE.encode()).hexdigest()[:16]}"
)
MEMORY = "4G"
_QEMU = ("qemu-system-x86_64", "-M", "q35", "-display", "none", "-no-reboot")
_KVM = ("-accel", "kvm", "-cpu", "host")
_EMULATED = ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off")


def make() -> Path:
    """The folder with disk, kernel, initrd and keys; makes it if it does not exist."""
    if not FOLDER.exists():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=FOLDER.parent, prefix="machine-", suffix=".part"
        ) as part:
            for name in ("operator", "host"):
                make_key(Path(part) / name)
            owner = f"{os.geteuid()}:{os.getegid()}"
            command = (*AS_ROOT, "nice", "sh", "-c", MAKE, "make", part, owner)
            passed(run(*command, seconds=1800))
            Path(part).rename(FOLDER)
            Path(part).mkdir()
    return FOLDER


@cache
def acceleration() -> tuple[str, ...]:
    """QEMU's accelerator: KVM if it boots a kernel, which not every machine with /dev/kvm can."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return _EMULATED
    kernel = ("-kernel", str(make() / "kernel"), "-append", "console=ttyS0", "-serial", "stdio")
    with subprocess.Popen(
        [*_QEMU, *_KVM, "-m", "512M", *kernel],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as qemu:
        assert qemu.stdout
        os.set_blocking(qemu.stdout.fileno(), False)
        output = b""

        def speaks() -> bool:
            nonlocal output
            output += (qemu.stdout.read() if qemu.stdout else b"") or b""
            return b"Linux version" in output or qemu.poll() is not None

        until(speaks, 15)
        qemu.kill()
    return _KVM if b"Linux version" in output else _EMULATED


def processors() -> str:
    """One if emulated. With several, one may run code that another has just patched, as the kernel
    does for the first CPU quota, and the kernel then panics."""
    return "1" if acceleration() is _EMULATED else str(os.cpu_count())


@dataclass
class Machine:
    """One machine; its users are root, ops and sudoer."""

    folder: Path
    port: int
    gateway_port: int
    qemu: subprocess.Popen[bytes] | None = None

    @property
    def host_key(self) -> str:
        return " ".join((FOLDER / "host.pub").read_text().split()[:2])

    @property
    def url(self) -> str:
        return f"ssh://ops@127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, object]:
        """Settings of a builder on it; the forwarded port leads to another address of it."""
        return {
            "host": self.url,
            "hostKey": self.host_key,
            "sshAddress": "0.0.0.0",
            "sshPort": self.gateway_port,
        }

    def ssh(
        self, script: str, *, user: str = "root", seconds: float = 300, **options: Any
    ) -> Result:
        """Run a shell script as that user."""
        return run(
            "ssh",
            "-F",
            "none",
            "-oBatchMode=yes",
            "-oConnectTimeout=10",
            f"-oKnownHostsCommand=/bin/echo %H {self.host_key}",
            "-oLogLevel=ERROR",
            "-oUserKnownHostsFile=none",
            "-oIdentitiesOnly=yes",
            "-oControlMaster=auto",
            f"-oControlPath={self.folder}/%r",
            "-oControlPersist=yes",
            "-i",
            str(FOLDER / "operator"),
            "-p",
            str(self.port),
            f"{user}@127.0.0.1",
            script,
            seconds=seconds,
            **options,
        )

    def boot(self) -> float:
        """Start it; return the seconds until a login succeeds."""
        start = time.monotonic()
        base = make()
        with (self.folder / "console").open("ab") as console:
            self.qemu = subprocess.Popen(
                [
                    "nice",
                    *_QEMU,
                    *acceleration(),
                    "-smp",
                    processors(),
                    "-m",
                    MEMORY,
                    "-kernel",
                    str(base / "kernel"),
                    "-initrd",
                    str(base / "initrd"),
                    "-append",
                    "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off quiet",
                    "-drive",
                    f"file={self.folder}/disk,if=virtio,format=raw,discard=unmap",
                    "-netdev",
                    f"user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:22,hostfwd="
                    f"tcp:127.0.0.1:{self.gateway_port}-:{self.gateway_port}",
                    "-device",
                    "virtio-net-pci,netdev=n",
                    "-device",
                    "virtio-rng-pci",
                    "-serial",
                    "stdio",
                ],
                stdout=console,
                stderr=console,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        answers = until(lambda: self.ssh("true").returncode == 0, 600)
        assert answers, (self.folder / "console").read_text(errors="replace")[-2000:]
        return time.monotonic() - start

    def cut_power(self) -> None:
        """Stop it at once; what its kernel had not written to disk is lost."""
        assert self.qemu
        self.qemu.kill()
        self._gone()

    def power_off(self) -> None:
        """Shut it down cleanly."""
        self.ssh("systemctl poweroff")
        self._gone()

    def reboot(self) -> float:
        """Shut it down cleanly and start it; return the seconds until a login succeeds."""
        self.power_off()
        return self.boot()

    def _gone(self) -> None:
        assert self.qemu
        with suppress(subprocess.TimeoutExpired):
            self.qemu.wait(180)
        self.qemu.kill()
        self.qemu.wait()
        for user in ("root", "ops", "sudoer"):
            # The masters of shared connections have no connection any more.
            run("ssh", "-F", "none", "-o", f"ControlPath={self.folder}/{user}", "-O", "exit", "-")

    def load(self, *images: str) -> None:
        """Copy images of this machine's Docker there."""
        archive = self.folder / "images.tar"
        passed(run("docker", "save", "--output", str(archive), *images))
        with archive.open("rb") as stream:
            passed(self.ssh("docker load", stdin=stream, seconds=1800))
        archive.unlink()


@contextmanager
def machine_in(folder: Path) -> Iterator[Machine]:
    """A running machine; it is removed completely after the block."""
    machine = Machine(folder, free_port(), free_port())
    disk = str(folder / "disk")
    passed(run("cp", "--sparse=always", str(make() / "disk"), disk))
    try:
        machine.boot()
        yield machine
    finally:
        if machine.qemu and machine.qemu.poll() is None:
            machine.cut_power()
        Path(disk).unlink()
