"""The component as a package for Pulumi programs in other languages."""
