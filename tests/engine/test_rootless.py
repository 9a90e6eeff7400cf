"""What a rootless daemon can and cannot do; docs/migrating.md has the messages of these tests."""

from __future__ import annotations

import fcntl
import secrets
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.host import PREFLIGHT
from tests.engine.conftest import (
    AS_ROOT,
    BASE_IMAGE,
    GUARD_IMAGE,
    ROOT,
    Builder,
    NewBuilder,
    Result,
    derived_image,
    passed,
    run,
)
from tests.engine.test_attacks import (
    EVERY,
    EXCEPTED,
    PUBLIC,
    answering,
    asking,
    from_a_step,
    neighbourhood,
    process_of,
    way_out,
)

PAGE = (ROOT / "docs" / "migrating.md").read_text()
HIGH = 2_000_000_000


def build(builder: Builder, folder: Path, *lines: str, options: tuple[str, ...] = ()) -> Result:
    """Build a Dockerfile of these lines after FROM; the result has all output as `stdout`."""
    (folder / "Dockerfile").write_text("\n".join((f"FROM {BASE_IMAGE}", *lines)))
    command = ("build", "--no-cache", "--progress=plain", "--tag", "rootless", *options)
    return builder.docker(*command, str(folder), stderr=subprocess.STDOUT)


def shown(builder: Builder, *command: str, options: tuple[str, ...] = ()) -> str:
    """The output of a command in a container of the image built last."""
    return passed(builder.docker("run", "--rm", *options, "rootless", *command))


def archive(path: Path) -> Path:
    """A tar file with a device, a file with the setuid bit and one of a user above 65535."""
    with tarfile.open(path, "w") as tar:
        for name, kind, mode, owner in (
            ("null", tarfile.CHRTYPE, 0o666, 0),
            ("su", tarfile.REGTYPE, 0o4755, 0),
            ("high", tarfile.REGTYPE, 0o644, HIGH),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = kind, mode, owner, owner
            entry.devmajor, entry.devminor = 1, 3
            tar.addfile(entry)
    return path


def test_builds_and_containers_have_users_above_65535(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    passed(
        build(
            builder,
            tmp_path,
            f"COPY --chown=70000:{HIGH} file /copied",
            f"RUN touch /made && chown {HIGH}:70001 /made",
        )
    )
    owners = shown(builder, "stat", "-c", "%u:%g", "/copied", "/made").split()
    assert owners == [f"70000:{HIGH}", f"{HIGH}:70001"]
    assert shown(builder, "id", "-u", options=("--user", f"{HIGH}:70000")).strip() == str(HIGH)


@pytest.fixture(scope="module")
def loaded(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The listing of an image of `archive`, which was made elsewhere and loaded."""
    folder, tag = tmp_path_factory.mktemp("image"), f"localhost/t{secrets.token_hex(3)}"
    passed(run("docker", "import", str(archive(folder / "layer.tar")), tag))
    try:
        builder.load(tag)
    finally:
        run("docker", "image", "rm", tag)
    passed(build(builder, folder, f"COPY --from={tag} / /of/"))
    return shown(builder, "ls", "-ln", "/of")


def test_a_loaded_image_keeps_high_users_and_setuid_and_loses_devices(loaded: str) -> None:
    columns = {line.split()[-1]: line.split() for line in loaded.splitlines()}
    assert columns["high"][2:4] == [str(HIGH), str(HIGH)]
    assert columns["su"][0] == "-rwsr-xr-x"
    assert "null" not in columns


def refused(result: Result, message: str) -> None:
    """The build or container failed with this message, which is on the page."""
    assert result.returncode != 0
    assert message in result.stdout + (result.stderr or "")
    assert f"`{message}`" in PAGE


def test_device_nodes_are_refused_by_name(builder: Builder, tmp_path: Path) -> None:
    refused(build(builder, tmp_path, "RUN mknod /null c 1 3"), "Operation not permitted")
    archive(tmp_path / "layer.tar")
    refused(build(builder, tmp_path, "ADD layer.tar /"), "operation not permitted")
    passed(run(*AS_ROOT, "mknod", str(tmp_path / "null"), "c", "1", "3"))
    refused(build(builder, tmp_path, "COPY null /"), "failed to create device")
    (tmp_path / "null").unlink()


def test_disks_cannot_be_mounted_even_by_a_privileged_container(builder: Builder) -> None:
    mount = "dd if=/dev/zero of=/disk bs=1M count=1 2>/dev/null; mount -o loop /disk /mnt"
    result = builder.docker("run", "--rm", "--privileged", BASE_IMAGE, "sh", "-c", mount)
    refused(result, "mount: permission denied")


def test_other_devices_of_the_host_are_not_there(builder: Builder) -> None:
    result = builder.docker("run", "--rm", "--device", "/dev/mem", BASE_IMAGE, "true")
    refused(result, "error gathering device information")


def test_setuid_of_a_file_in_the_context_is_lost_unless_the_dockerfile_sets_it(
    builder: Builder, tmp_path: Path
) -> None:
    (tmp_path / "su").write_text("program")
    (tmp_path / "su").chmod(0o4755)
    with tarfile.open(tmp_path / "su.tar", "w") as tar:
        tar.add(tmp_path / "su", "su")
    passed(
        build(
            builder,
            tmp_path,
            "COPY su /plain",
            "COPY --chmod=4755 su /chmod",
            "COPY su /run",
            "RUN chmod 4755 /run",
            "ADD su.tar /added/",
        )
    )
    modes = shown(builder, "stat", "-c", "%a", "/plain", "/chmod", "/run", "/added/su").split()
    assert modes == ["755", "4755", "4755", "4755"]


def test_limits_above_those_of_the_daemon_are_lowered_to_them(
    builder: Builder, tmp_path: Path
) -> None:
    limits = passed(builder.docker("run", "--rm", BASE_IMAGE, "sh", "-c", "ulimit -Hu; ulimit -Hn"))
    processes, files = limits.split()
    above = ("--ulimit", "nproc=9999999", "--ulimit", "nofile=99999999", "--ulimit", "memlock=-1")
    show = ("sh", "-c", "ulimit -Hu; ulimit -Hn")
    assert passed(builder.docker("run", "--rm", *above, BASE_IMAGE, *show)).split() == [
        processes,
        files,
    ]
    below = ("--ulimit", "nproc=900:1000")
    shown_below = builder.docker("run", "--rm", *below, BASE_IMAGE, "sh", "-c", "ulimit -u")
    assert passed(shown_below).strip() == "900"
    running = passed(
        builder.docker("run", "--detach", "--rm", *above, BASE_IMAGE, "sleep", "60")
    ).strip()
    assert passed(builder.docker("exec", running, *show)).split() == [processes, files]
    passed(builder.docker("rm", "--force", running))
    built = build(builder, tmp_path, "RUN ulimit -Hu", options=above[:2])
    assert f" {processes}\n" in passed(built)


# Mounts a file system of the kernel's FUSE and prints the kind of the first request for it.
FUSE = """
import ctypes, os, struct
device = os.open("/dev/fuse", os.O_RDWR)
os.mkdir("/mine")
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"mine", b"/mine", b"fuse", 0, options):
    raise OSError(ctypes.get_errno(), "mount")
print(struct.unpack_from("<II", os.read(device, 1 << 17))[1])
"""
FUSE_INIT = "26"


def test_a_container_mounts_file_systems_of_fuse(builder: Builder) -> None:
    builder.load(GUARD_IMAGE)
    given = ("--device", "/dev/fuse", "--cap-add", "SYS_ADMIN")
    command = builder.docker("run", "--rm", *given, GUARD_IMAGE, "python3", "-c", FUSE)
    assert passed(command).strip() == FUSE_INIT
    assert "unchanged" in builder.up("--expect-no-changes")


# Emulation ----------------------------------------------------------------------------------------

FOREIGN, MAGIC = "s390x", r"\x7fELF\x02\x02\x01" + r"\x00" * 10 + r"\x02\x00\x16"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 9 + r"\xfe\xff\xff"
REGISTER = """
cd /proc/sys/fs/binfmt_misc
[ -e register ] || mount -t binfmt_misc none . && cd /proc/sys/fs/binfmt_misc
registered=
[ -e qemu-s390x ] || { printf '%s' "$1" >register && registered=1; }
echo ready
read -r _ || :
[ -z "$registered" ] || echo -1 >qemu-s390x
"""


def foreign_program() -> bytes:
    """A program for Linux on s390x that prints its name."""
    text = b"of s390x\n"
    code = bytes.fromhex("a7290001 c03000000009 a7490009 0a04 a7290000 0a01") + text
    start = 0x1000000
    header = struct.pack(
        ">16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x02\x01",
        *(2, 22, 1, start + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    size = 120 + len(code)
    return header + struct.pack(">IIQQQQQQ", 1, 5, 0, start, start, size, size, 0x1000) + code


def foreign_context(folder: Path) -> None:
    """Write the context of a build with a step that runs that program."""
    (folder / "program").write_bytes(foreign_program())
    (folder / "program").chmod(0o755)
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY program /\nRUN ["/program"]\n')


def emulator(folder: Path) -> Path:
    """Debian's QEMU for that architecture; newer releases have it in another package."""
    for package in ("qemu-user-static", "qemu-user"):
        passed(run("apt-get", "download", "-qq", package, cwd=folder))
        [file] = folder.glob(f"{package}_*.deb")
        passed(run("dpkg-deb", "-x", str(file), str(folder)))
        for name in (f"qemu-{FOREIGN}-static", f"qemu-{FOREIGN}"):
            program = folder / "usr" / "bin" / name
            if program.exists() and not program.is_symlink():
                return program
    raise AssertionError("no package has QEMU")


@contextmanager
def sole_emulation() -> Iterator[None]:
    """No other test changes, during the block, what this machine emulates."""
    with (Path(tempfile.gettempdir()) / "docker-build-machine-emulation").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def emulation(folder: Path) -> Iterator[str]:
    """This machine runs programs of s390x; gives the process that sees how, in /proc.

    Only within `sole_emulation`.
    """
    line = f":qemu-{FOREIGN}:M::{MAGIC}:{MASK}:{emulator(folder)}:F"
    # Kernels from 6.7 on forget what is registered when nobody has the file system mounted.
    with subprocess.Popen(
        [*AS_ROOT, "unshare", "--mount", "sh", "-euc", REGISTER, "sh", line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        try:
            yield str(holder.pid)
        finally:
            holder.communicate("end\n")


def test_builds_run_on_a_platform_that_the_host_emulates(builder: Builder, tmp_path: Path) -> None:
    foreign_context(tmp_path)

    def build_foreign() -> Result:
        command = ("build", "--no-cache", "--progress=plain", f"--platform=linux/{FOREIGN}")
        return builder.docker(*command, str(tmp_path), stderr=subprocess.STDOUT)

    look = ("sh", "-s", "look", "o", "nobody-builder", "127.0.0.1", "1", f"linux/{FOREIGN}")
    (tmp_path / "qemu").mkdir()
    with sole_emulation():
        refused(build_foreign(), "exec format error")
        with emulation(tmp_path / "qemu") as holder:
            built = passed(build_foreign())
            assert " of s390x\n" in built
            seen = run(*AS_ROOT, "nsenter", "-t", holder, "-m", *look, "false", input=PREFLIGHT)
            assert f"emulated=linux/{FOREIGN}\n" in seen.stdout
            assert "platforms" not in seen.stderr
            # What docker/setup-qemu-action does: see the page.
            own = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"
            mounted = builder.docker("run", "--rm", "--privileged", BASE_IMAGE, "sh", "-c", own)
            hidden = build_foreign()
            assert (hidden.returncode != 0) == (mounted.returncode == 0)
            passed(run("docker", "restart", builder.container("daemon")))
            assert " of s390x\n" in passed(build_foreign())


# The rootless network -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_without_slirp4netns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image as upstream's maintainers discuss it: without slirp4netns, with --detach-netns."""
    detach = "sed -i 's/exec rootlesskit /&--detach-netns /' /usr/local/bin/dockerd-entrypoint.sh"
    dockerfile = f'USER root\nRUN rm "$(command -v slirp4netns)" && {detach}\nUSER rootless\n'
    with derived_image("without-slirp4netns", tmp_path_factory.mktemp("image"), dockerfile) as tag:
        yield tag


def test_an_image_without_slirp4netns_has_the_same_network(
    new_builder: NewBuilder, image_without_slirp4netns: str
) -> None:
    builder = new_builder(
        daemonImage=image_without_slirp4netns,
        privateNetworks="block",
        privateNetworksExcept=[f"{EXCEPTED}/32"],
    )
    builder.up()
    builder.load_base()
    listed = passed(run("docker", "top", builder.container("daemon"), "-eo", "pid,args"))
    assert "--net=gvisor-tap-vsock" in listed
    inside = passed(builder.docker("run", "--rm", "--network=host", BASE_IMAGE, "ip", "address"))
    assert "198.18.0." in inside, "the daemon has a network namespace of its own"
    assert way_out(builder) == "uplink"
    assert "Address" in from_a_step(builder, "nslookup docker").stdout
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
        daemon = (*AS_ROOT, "nsenter", "-t", process_of(builder, "daemon"), "-n")
        passed(run(*daemon, "ip", "link", "delete", "builds"))
        assert way_out(builder) == "tap0"
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
