"""What a stack can set; names, defaults and descriptions for people stand in Pulumi.yaml."""

from components.settings.builder import Settings
from components.settings.given import GivenSettings
from components.settings.keys import AuthorizedKey, Revocation
from components.settings.stack import FleetHost, RegistrySettings, StackSettings, load_settings
from components.settings.values import Age, DiskSpace, Size

__all__ = [
    "Age",
    "AuthorizedKey",
    "DiskSpace",
    "FleetHost",
    "GivenSettings",
    "RegistrySettings",
    "Revocation",
    "Settings",
    "Size",
    "StackSettings",
    "load_settings",
]
