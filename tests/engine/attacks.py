"""Attacks by a user with the whole Docker API of a builder, and their expected results.

Each attack is a script for a privileged container that shares the root folder, the processes, the
network and the IPC of the daemon's container. It prints REACHED if it succeeds.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "threat-model.md"
_BEGIN, _END = "<!-- attacks: written by make trials -->", "<!-- end of attacks -->"


@dataclass(frozen=True)
class Attack:
    name: str
    script: str
    stands: str = ""
    """Why this attack succeeds by design; empty if it must fail."""

    @property
    def expected(self) -> str:
        return "reached" if self.stands else "refused"


# TOKEN is in the names of a file and a process on the host, OTHER is another stack's.
ATTACKS = [
    Attack(
        "read a disk of the host",
        """
        for device in /sys/block/*/dev; do
            number=$(cat $device); rm -f /tmp/disk
            mknod /tmp/disk b ${number%:*} ${number#*:} && head -c 1 /tmp/disk && echo REACHED
        done
        for device in /host/dev/* /dev/*; do
            [ -b $device ] && head -c 1 $device && echo REACHED
        done
        """,
    ),
    Attack(
        "read the host's memory",
        "for file in /dev/mem /host/dev/mem /dev/port /proc/kcore; do "
        "head -c 1 $file && echo REACHED; done",
    ),
    Attack("read the host's kernel log", "dmesg | grep . && echo REACHED"),
    Attack(
        "load a kernel module",
        "echo x >/tmp/x.ko; insmod /tmp/x.ko 2>&1 | grep -i format && echo REACHED",
    ),
    Attack(
        "have the host's kernel start a program (core_pattern, modprobe, uevent_helper)",
        """
        cd /proc/sys/kernel
        for file in core_pattern modprobe /sys/kernel/uevent_helper; do
            value=$(cat $file) && printf '%s\\n' "$value" >$file && echo REACHED
        done
        """,
    ),
    Attack(
        "change a setting of the host's kernel",
        """
        for file in /proc/sys/vm/swappiness /proc/sys/kernel/pid_max /proc/sys/fs/file-max; do
            value=$(cat $file) && printf '%s\\n' "$value" >$file && echo REACHED
        done
        echo h >/proc/sysrq-trigger && echo REACHED
        """,
    ),
    Attack(
        "mount what belongs to the host's kernel (control groups, debugfs, a disk)",
        """
        mkdir -p /mnt
        for kind in cgroup debugfs tracefs securityfs; do
            mount -t $kind none /mnt && echo REACHED
        done
        # Of version 2 everybody may mount what is below the group of the own namespace. The host's
        # first group alone has no type.
        if mount -t cgroup2 none /mnt; then
            [ -e /mnt/cgroup.type ] || echo REACHED
            for file in /mnt/memory.max /mnt/pids.max; do
                [ -e $file ] && echo max >$file && echo REACHED
            done
        fi
        """,
    ),
    Attack(
        "enter the namespaces outside of the daemon's own",
        "for kind in mnt net ipc uts pid; do nsenter -t 1 --$kind true && echo REACHED; done",
    ),
    Attack(
        "read or trace a process outside of the daemon's user namespace",
        """
        for process in 1 $(pidof slirp4netns); do
            head -c 1 /proc/$process/environ && echo REACHED
            ls /proc/$process/root/ /proc/$process/fd && echo REACHED
        done
        """,
    ),
    Attack("see a process of the host", "ps -o args | grep TOKEN | grep -v grep && echo REACHED"),
    Attack(
        "find a file of the host",
        "find /host /proc/1/root/ -name '*TOKEN*' | grep . && echo REACHED",
    ),
    Attack(
        "find another Docker socket",
        "find / -type s -name '*docker*.sock' -o -type s -name '*containerd*.sock' | "
        "grep -v '/user/docker.sock$' | grep -v '/xdg/' && echo REACHED",
    ),
    Attack(
        "find a private key or the list of keys",
        """
        find /host /proc/1/root/ -xdev -type f -size -64k ! -path '*/.local/share/docker/*' \\
            -exec grep -l 'PRIVATE KEY-' {} + | grep . && echo REACHED
        find /host /proc/1/root/ -xdev -name 'authorized_keys*' | grep . && echo REACHED
        """,
    ),
    Attack(
        "find a file of another stack's cache", "find / -name '*OTHER*' | grep . && echo REACHED"
    ),
    Attack(
        "speak to another stack's gateway or daemon past its gateway",
        "for address in ADDRESSES; do for port in 2222 2375 2376; do "
        "nc -w 1 $address $port </dev/null && echo REACHED; done; done",
    ),
    Attack(
        "write where the daemon's container keeps programs and settings",
        """
        for folder in /host /host/usr/local/sbin /host/usr/local/bin /host/usr/bin /host/usr/lib \\
            /host/usr/libexec /host/usr/local/lib /host/root /host/etc/docker-build-machine; do
            touch $folder/planted && echo REACHED
        done
        ls /host/root && echo REACHED
        """,
    ),
    Attack(
        "open the rules of `privateNetworks` or anything else of the outer network",
        "nsenter --net=/proc/1/ns/net iptables -F && echo REACHED; "
        "nsenter --net=/proc/$(pidof slirp4netns)/ns/net true && echo REACHED",
    ),
    Attack(
        "read what other clients of the same builder have in its cache",
        "cd /host/home/rootless/.local/share/docker && "
        "ls overlay2 containerd/daemon/*overlayfs/snapshots 2>/dev/null | grep -q '^[0-9a-f]' && "
        "echo REACHED",
        stands="one stack is one trust domain",
    ),
]


def script_of(attacks: list[Attack], **words: str) -> str:
    """One script that runs all attacks, each in its own shell.

    It prints the number and the result of each; an attack that is stopped after half a minute is
    neither reached nor refused.
    """
    text = "".join(
        f"cat >/tmp/attack <<'ATTACK'\n{attack.script}\nATTACK\n"
        "timeout -s KILL 30 sh /tmp/attack </dev/null >/tmp/output 2>/tmp/error\n"
        "[ $? -lt 128 ] && outcome=refused || outcome=unfinished\n"
        "! grep -q '^REACHED' /tmp/output || outcome=reached\n"
        f'echo "{number} $outcome $(tail -n 1 /tmp/error)"\n'
        for number, attack in enumerate(attacks)
    )
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def write_table(seen: dict[str, dict[str, str]]) -> None:
    """Write the results, by attack and mode, into the threat model's table."""
    rows = [
        f"| {attack.name} | {attack.expected}{f' ({attack.stands})' if attack.stands else ''} | "
        f"{seen[attack.name]['unprivileged']} | {seen[attack.name]['privileged']} |"
        for attack in ATTACKS
    ]
    table = "\n".join(
        [
            _BEGIN,
            "",
            f"Seen on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}:",
            "",
            "| attack | expected | unprivileged | privileged |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            _END,
        ]
    )
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _PAGE.write_text(before + table + rest.partition(_END)[2])
