"""The builder: a rootless Docker daemon behind an SSH gateway, as one Pulumi component."""

from components.arguments import BuilderArgs
from components.builder import DockerBuilder
from components.registry import Registry
from components.settings import Settings, StackSettings, load_settings

__all__ = ["BuilderArgs", "DockerBuilder", "Registry", "Settings", "StackSettings", "load_settings"]
