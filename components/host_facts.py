"""The facts about a host that preflight.sh prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import pulumi


@dataclass(frozen=True)
class HostFacts:
    """The facts of one run of preflight.sh; all are empty when the host did not answer."""

    docker: str = ""
    """Release of the host's Docker daemon."""
    cgroup: str = ""
    """Version of the control groups, 1 or 2."""
    processes: str = ""
    """How many processes a container may have."""
    kernel: str = ""
    """Release of the kernel."""
    architecture: str = ""
    """The output of `uname -m`."""
    namespaces: str = ""
    """User namespaces: allowed, until-reboot (a file that is read at boot refuses them) or
    refused."""
    apparmor: str = ""
    """AppArmor of the daemon's container: profile if APPARMOR_PROFILE is loaded, else
    unconfined."""
    tun: str = ""
    """/dev/net/tun: usable, closed (not usable by everybody), broken (does not open) or missing."""
    fuse: str = ""
    """/dev/fuse, which the daemon's container gets: present or missing."""
    overlay: str = ""
    """Overlay file systems: supported or missing."""
    emulated: str = ""
    """Those of the setting `platforms` that the host emulates, separated by commas."""
    disk: str = ""
    """Free space on the disk with Docker's data: enough or short."""
    inodes: str = ""
    """Free inodes there: enough or short."""
    clock: str = ""
    """The clock compared with the machine that runs Pulumi: right or wrong."""
    acks: str = ""
    """Whether TCP can be made to acknowledge at once (tcp_pingpong_thresh, Linux 6.7): tunable or
    fixed."""
    store: str = ""
    """The image store of the builder that is there, containerd or overlay2; empty for none."""
    conflicts: str = ""
    """Number of the builder's ports and volumes that belong to something else."""

    @classmethod
    def parse(cls, text: str) -> HostFacts:
        """Read the facts from preflight.sh's standard output, one name=value per line."""
        lines = [line.partition("=") for line in text.splitlines()]
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, _, value in lines if name in known})

    @property
    def known(self) -> bool:
        """Whether the host and its Docker answered."""
        return bool(self.docker)

    @property
    def variables(self) -> dict[str, str]:
        """The facts as environment variables.

        Without `processes`, which changes at each boot, and `store`, which the update changes.
        """
        left_out = {"processes", "store"}
        facts = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {f"HOST_{name.upper()}": value for name, value in facts.items()}


def while_unknown_keep(facts: pulumi.Output[HostFacts], *properties: str) -> pulumi.ResourceOptions:
    """Options of a resource whose `properties` depend on the facts.

    While the host does not answer, the properties keep their values from the state.
    """

    async def keep(
        args: pulumi.ResourceTransformArgs,
    ) -> pulumi.ResourceTransformResult | None:
        seen = await facts.future()
        if seen is None or seen.known:
            return None
        args.opts.ignore_changes = [*(args.opts.ignore_changes or []), *properties]
        return pulumi.ResourceTransformResult(args.props, args.opts)

    return pulumi.ResourceOptions(transforms=[keep])
