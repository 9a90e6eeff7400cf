"""What preflight.sh saw on a host."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import pulumi


@dataclass(frozen=True)
class HostFacts:
    """One look at a host; every fact is empty when the host did not answer."""

    docker: str = ""
    """Release of the host's Docker daemon."""
    cgroup: str = ""
    """Version of the control groups, 1 or 2."""
    processes: str = ""
    """How many processes a container may have."""
    kernel: str = ""
    """Release of the kernel."""
    architecture: str = ""
    """As `uname -m` prints it."""
    namespaces: str = ""
    """User namespaces: allowed, until-reboot (what a boot reads refuses them) or refused."""
    apparmor: str = ""
    """Of the daemon's container: profile where APPARMOR_PROFILE is loaded, else unconfined."""
    tun: str = ""
    """/dev/net/tun: usable, closed (not for everybody), broken (does not open) or missing."""
    fuse: str = ""
    """/dev/fuse: present or missing."""
    overlay: str = ""
    """Overlay file systems: supported or missing."""
    disk: str = ""
    """Free space where Docker keeps its data: enough or short."""
    inodes: str = ""
    """Free inodes there: enough or short."""
    clock: str = ""
    """Compared with the machine that runs Pulumi: right or wrong."""
    acks: str = ""
    """When TCP acknowledges at once (tcp_pingpong_thresh, Linux 6.7): tunable or fixed."""
    conflicts: str = ""
    """How many of the builder's ports and volumes belong to something else."""

    @classmethod
    def parse(cls, text: str) -> HostFacts:
        """The facts of preflight.sh's standard output, one name=value a line."""
        lines = [line.partition("=") for line in text.splitlines()]
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, _, value in lines if name in known})

    @property
    def known(self) -> bool:
        """Whether the host and its Docker answered."""
        return bool(self.docker)

    @property
    def variables(self) -> dict[str, str]:
        """The facts as environment variables; `processes` differs a little after each boot."""
        facts = {name: value for name, value in asdict(self).items() if name != "processes"}
        return {f"HOST_{name.upper()}": value for name, value in facts.items()}


def while_unknown_keep(facts: pulumi.Output[HostFacts], *properties: str) -> pulumi.ResourceOptions:
    """Options of a resource whose `properties` follow from the facts.

    While the host does not answer, the properties stay as they are in the state.
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
