"""The cache: its volume, limits and image store, and the check that the daemon can use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.host_facts import HostFacts
from components.layout import DATA_DIRECTORY
from components.scope import RELEASES, Scope
from components.settings import Settings

CHECK = RELEASES + (Path(__file__).parent / "check.sh").read_text()
"""Runs on the host, with the arguments that check.sh names."""
# Build contexts and checkouts: caching them only saves an upload, and each new folder of a CI job
# adds one.
_UPLOADED = ("source.local", "source.git.checkout")


@dataclass(frozen=True)
class CachePolicy:
    """The limits of one disk, in bytes."""

    size: int
    """The cache is kept below this size."""
    reserved: int
    """While less than `min_free` is free, the cache shrinks down to this size, and no further."""
    min_free: int

    @classmethod
    def of(cls, settings: Settings, disk: int) -> CachePolicy:
        """The policy for a disk of `disk` bytes.

        Raises pulumi.RunError when the disk cannot hold both the cache and the free space.
        """
        size = settings.cache_size.of(disk)
        min_free = settings.min_free_space.of(disk)
        if size + min_free > disk:
            raise pulumi.RunError(
                f"cacheSize = '{settings.cache_size}' and minFreeSpace = "
                f"'{settings.min_free_space}' are {(size + min_free) / 1e9:.1f} GB together, but "
                f"the host's disk for Docker has {disk / 1e9:.1f} GB; next: make one smaller, or "
                "write it as a share such as 40%"
            )
        return cls(size, size // 2, min_free)

    def garbage_collection(self) -> dict[str, object]:
        """The value of `builder.gc` in daemon.json.

        Each rule removes the least recently used records first. The default rules would remove
        cache mounts that were not used for 48 hours. Daemons up to 27 read `keepStorage`, daemons
        from 28 on read the other three; each ignores what it does not know.
        """

        def rule(size: int, reserved: int) -> dict[str, object]:
            return {
                "all": True,
                "keepStorage": f"{size}B",
                "reservedSpace": f"{reserved}B",
                "maxUsedSpace": f"{size}B",
                "minFreeSpace": f"{self.min_free}B",
            }

        tenth = self.size // 10
        uploaded = [{**rule(tenth, 0), "filter": [f"type={kind}"]} for kind in _UPLOADED]
        return {
            "enabled": True,
            "defaultKeepStorage": f"{self.size}B",
            "policy": [*uploaded, rule(self.size, self.reserved)],
        }


@dataclass(frozen=True)
class Cache:
    """The volume with images, layers and cache mounts, and its limits."""

    volume: docker.Volume
    policy: pulumi.Output[CachePolicy]
    image_store: pulumi.Output[str]
    """Where the daemon keeps images and build cache: containerd or overlay2."""

    @classmethod
    def declare(
        cls,
        scope: Scope,
        settings: Settings,
        *,
        image: docker.RemoteImage,
        facts: pulumi.Output[HostFacts],
    ) -> Cache:
        """Declare the volume and check it against the daemon's image and the setting `imageStore`.

        With `keepCache`, no update, rename or destroy deletes the volume.
        """
        keep = settings.keep_cache
        volume = scope.having(protect=keep, retain_on_delete=keep).volume("cache")
        if pulumi.runtime.is_dry_run():
            facts.apply(lambda facts: _warn_of_change(scope, settings, facts.store, volume))
        checked = scope.having(aliases=[pulumi.Alias(name=f"{scope.name}-disk")]).script(
            "cache-check",
            CHECK,
            [
                volume.name,
                DATA_DIRECTORY,
                image.image_id,
                settings.daemon_image,
                settings.image_store,
            ],
        )
        # In states of earlier releases, which knew overlay2 only, it is the size alone.
        size_and_store = checked.stdout.apply(lambda text: [*text.split(), "overlay2"][:2])
        return cls(
            volume,
            size_and_store.apply(lambda parts: CachePolicy.of(settings, int(parts[0]))),
            size_and_store.apply(lambda parts: parts[1]),
        )


def _warn_of_change(scope: Scope, settings: Settings, old: str, volume: docker.Volume) -> None:
    """Warn when the daemon in use, with the image store `old`, gets another one."""
    new = settings.image_store
    if old and new not in ("keep", old):
        pulumi.log.warn(
            f"imageStore changes from {old} to {new}: builds begin with a cold cache and without "
            f"the images in {old}. These stay on the disk, beyond cacheSize, and are in use again "
            f"after a change back. Next, to free them once {new} works: make free, or "
            f"scripts/cache free {scope.prefix}",
            resource=volume,
        )
