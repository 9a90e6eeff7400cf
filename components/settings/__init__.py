"""The settings of a stack; Pulumi.yaml has their names, defaults and descriptions for users."""

from components.settings.builder import Settings
from components.settings.given import Given
from components.settings.identities import Identity
from components.settings.keys import AuthorizedKey, Revocation
from components.settings.registry import Mirror, RegistrySettings
from components.settings.stack import FleetHost, StackSettings, load_settings
from components.settings.values import Age, DiskSpace, Size

__all__ = [
    "Age",
    "AuthorizedKey",
    "DiskSpace",
    "FleetHost",
    "Given",
    "Identity",
    "Mirror",
    "RegistrySettings",
    "Revocation",
    "Settings",
    "Size",
    "StackSettings",
    "load_settings",
]
