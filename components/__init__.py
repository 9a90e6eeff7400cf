"""The builder: a rootless Docker daemon behind an SSH gateway, as one Pulumi component."""

from components.builder import DockerBuilder
from components.host import DockerHost
from components.settings import Settings, load_settings

__all__ = ["DockerBuilder", "DockerHost", "Settings", "load_settings"]
