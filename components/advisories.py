"""Known holes in the releases that images carry.

The table is plain data. No service knows the releases of whole images: advisories name Go modules,
whose versions differ from the engine's, and a fix reaches the engine with a later release of its
own. Whoever adds an advisory reads the release notes of each component, and sets `CHECKED`.

It has the holes that can be reached in a builder. It leaves out those of Windows, swarm, CRI,
plugins of dockerd, and parts of OpenSSH that the gateway has switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

CHECKED = date(2026, 11, 27)
"""The day on which somebody last compared the table with the release notes."""
MOST_AGE = timedelta(days=90)
"""After this time without a check the table may lack what is known."""

Release = tuple[int, ...]

_LEADING = re.compile(r"v?(\d+(?:[._]?p?\d+)*)(?![a-z0-9])")
_FEWEST_NUMBERS = 2


@dataclass(frozen=True)
class Advisory:
    """Holes that one release fixed, in one component."""

    ids: str
    """CVE or GHSA numbers, separated by a space."""
    fixed: tuple[str, ...]
    """The first releases without them, oldest first. Those before the last are for older branches,
    which have the same first number."""
    published: date
    means: str
    """What somebody can do to a builder with it."""

    def affects(self, release: Release) -> bool:
        """Whether this release has the holes."""
        *older, last = map(numbers, self.fixed)
        if release >= last:
            return False
        return not any(release[0] == fix[0] and release >= fix for fix in older)

    def fix_for(self, release: Release) -> str:
        """The first release after this one that does not have them."""
        return next((fix for fix in self.fixed if numbers(fix) > release), self.fixed[-1])


@dataclass(frozen=True)
class Component:
    """What an image with this setting carries."""

    name: str
    repository: str
    """Last part of the image's name upstream. The tags of other images have other numbers."""
    advisories: tuple[Advisory, ...]


COMPONENTS: Mapping[str, Component] = {
    "daemonImage": Component(
        "Docker Engine",
        "docker",
        (
            Advisory(
                "CVE-2024-21626",
                ("24.0.9", "25.0.2"),
                date(2024, 1, 31),
                "runc: a step of a build becomes the daemon's user, outside of its container",
            ),
            Advisory(
                "CVE-2024-24557",
                ("24.0.9", "25.0.2"),
                date(2024, 2, 1),
                "the classic builder takes a foreign image for its cache",
            ),
            Advisory(
                "CVE-2024-23650 CVE-2024-23651 CVE-2024-23652 CVE-2024-23653",
                ("25.0.2",),
                date(2024, 1, 31),
                "BuildKit: a Dockerfile or its frontend reads and deletes the daemon's files, or "
                "gets privileges that were not granted",
            ),
            Advisory(
                "CVE-2024-29018",
                ("25.0.5", "26.0.0"),
                date(2024, 3, 20),
                "a container on an internal network sends out data in DNS queries",
            ),
            Advisory(
                "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881",
                ("28.5.2", "29.0.0"),
                date(2025, 11, 5),
                "runc: a step of a build becomes the daemon's user, outside of its container",
            ),
            Advisory(
                "CVE-2026-33747 CVE-2026-33748",
                ("29.3.1",),
                date(2026, 3, 25),
                "BuildKit: a frontend writes, or a git context reads, the daemon's files",
            ),
            Advisory(
                "CVE-2026-41567 CVE-2026-41568 CVE-2026-42306",
                ("29.5.1",),
                date(2026, 5, 18),
                "docker cp to a container runs its programs as the daemon's user, or writes "
                "outside of it",
            ),
            Advisory(
                "GHSA-7236-3392-c5c6 GHSA-72x6-4j93-7w86 GHSA-mjcv-p78q-w5fw CVE-2026-47262",
                ("29.6.1",),
                date(2026, 6, 24),
                "BuildKit: a frontend runs steps without seccomp; an image with a huge /etc/group "
                "uses up the daemon's memory",
            ),
            Advisory(
                "CVE-2026-15788 CVE-2026-15789 CVE-2026-15791 CVE-2026-15792 CVE-2026-15793",
                ("29.6.2",),
                date(2026, 7, 16),
                "BuildKit: a git bundle runs commands, a frontend stops the daemon or empties /tmp",
            ),
            Advisory(
                "CVE-2026-17106",
                ("29.7.1",),
                date(2026, 7, 31),
                "the archive of an image, or of docker cp, writes files outside of its folder",
            ),
            Advisory(
                "CVE-2026-97032 CVE-2026-78659 CVE-2026-78663 CVE-2026-78669",
                ("29.9.0",),
                date(2026, 10, 8),
                "HTTP/2: a client or a frontend stops the daemon, or uses up its memory or CPU",
            ),
        ),
    ),
    "buildkitImage": Component(
        "BuildKit",
        "buildkit",
        (
            Advisory(
                "CVE-2024-21626 CVE-2024-23650 CVE-2024-23651 CVE-2024-23652 CVE-2024-23653",
                ("0.12.5",),
                date(2024, 1, 31),
                "a step of a build, a Dockerfile or its frontend gets at the node's files, or gets "
                "privileges that were not granted",
            ),
            Advisory(
                "CVE-2025-31133 CVE-2025-52565 CVE-2025-52881",
                ("0.25.2",),
                date(2025, 11, 5),
                "runc: a step of a build gets out of its container, into the node's",
            ),
            Advisory(
                "CVE-2026-33747 CVE-2026-33748",
                ("0.28.1",),
                date(2026, 3, 25),
                "a frontend writes, or a git context reads, the node's files",
            ),
            Advisory(
                "GHSA-7236-3392-c5c6 GHSA-72x6-4j93-7w86",
                ("0.31.1",),
                date(2026, 6, 24),
                "a frontend runs steps without seccomp; an image with a huge /etc/group uses up "
                "the node's memory",
            ),
            Advisory(
                "CVE-2026-15788 CVE-2026-15789 CVE-2026-15791 CVE-2026-15792 CVE-2026-15793",
                ("0.31.2",),
                date(2026, 7, 16),
                "a git bundle runs commands, a frontend stops the node or empties its /tmp",
            ),
            Advisory(
                "GHSA-p3rc-w3hc-pqvv GHSA-f2v9-hprr-32q3 GHSA-4hgw-qrhw-fhg8 GHSA-2f5p-x9ph-g97x",
                ("0.33.1",),
                date(2026, 9, 30),
                "a client puts false layers into the cache of others, a frontend stops the node",
            ),
            Advisory(
                "GHSA-2fqp-xg6f-v7gj GHSA-w26x-xg27-7qjc",
                ("0.34.2",),
                date(2026, 11, 3),
                "a build stops the node, a client sets attributes of files outside of its cache",
            ),
        ),
    ),
    "gatewayImage": Component(
        "OpenSSH",
        "openssh-server",
        (
            Advisory(
                "CVE-2024-6387",
                ("9.8p1",),
                date(2024, 7, 1),
                "regreSSHion: whoever reaches the port may run code before the login",
            ),
            Advisory(
                "CVE-2025-26466",
                ("9.9p2",),
                date(2025, 2, 18),
                "whoever reaches the port uses up memory and CPU before the login",
            ),
            Advisory(
                "CVE-2026-35414",
                ("10.3p1",),
                date(2026, 4, 2),
                "a certificate gets in for a principal with a comma that the key does not list",
            ),
        ),
    ),
    "registryImage": Component(
        "Distribution",
        "registry",
        (
            Advisory(
                "CVE-2026-33540",
                ("3.1.0",),
                date(2026, 4, 6),
                "an upstream, or whoever answers in its place, makes the mirror send its user and "
                "token to another server",
            ),
            Advisory(
                "CVE-2026-41888",
                ("3.1.1",),
                date(2026, 4, 29),
                "a client deletes tags of the store, although deleting is off",
            ),
        ),
    ),
}
"""By the setting of the image."""


def numbers(text: str) -> Release:
    """The numbers of a release: 29.7.2, v0.34.2, 9.9p2 or 10.3_p1."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def release_of(setting: str, reference: str) -> str | None:
    """The release in the tag of an image.

    None for a digest without a tag, for a tag that moves, such as `29-dind-rootless`, and for an
    image whose name is not the upstream's.
    """
    name, _, _ = reference.partition("@")
    *_, last = name.split("/")
    repository, _, tag = last.partition(":")
    found = _LEADING.match(tag)
    if repository != COMPONENTS[setting].repository or not found:
        return None
    return found[1] if len(numbers(found[1])) >= _FEWEST_NUMBERS else None


def holes(setting: str, reference: str) -> list[Advisory]:
    """The known holes of an image; none if its release is unknown."""
    release = release_of(setting, reference)
    if release is None:
        return []
    return [a for a in COMPONENTS[setting].advisories if a.affects(numbers(release))]


def warnings(images: Mapping[str, str]) -> Iterator[str]:
    """One line for each image, by its setting, that has known holes."""
    for setting, reference in images.items():
        if found := holes(setting, reference):
            release = numbers(release_of(setting, reference) or "")
            without = max((one.fix_for(release) for one in found), key=numbers)
            name = COMPONENTS[setting].name
            yield (
                f"{setting} = {reference} has {name} with known holes: "
                + ", ".join(f"{one.ids} (until {one.fix_for(release)})" for one in found)
                + f"; {name} {without} has none of them; next: pulumi config set {setting} with a "
                "newer image, or rm it for the default; make audit says what each hole means"
            )
