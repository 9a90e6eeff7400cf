"""Pulumi components: a rootless Docker daemon behind an SSH gateway, many of them, a registry."""

from components.arguments import BuilderArgs, FleetArgs, RegistryArgs
from components.builder import DockerBuilder
from components.fleet import Fleet
from components.registry import Registry
from components.settings import Settings, StackSettings, load_settings

__all__ = [
    "BuilderArgs",
    "DockerBuilder",
    "Fleet",
    "FleetArgs",
    "Registry",
    "RegistryArgs",
    "Settings",
    "StackSettings",
    "load_settings",
]
