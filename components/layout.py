"""Names, paths and ports that more than one part of a builder relies on: each stands here once."""

OWNER_LABEL = "docker-build-machine.owner"
"""Label of everything on the host; its value is project/stack/component."""

APPARMOR_PROFILE = "docker-build-machine"
"""What preflight.sh loads where AppArmor refuses user namespaces to everybody else."""

# In the daemon's container ------------------------------------------------------------------------

DATA_DIRECTORY = "/home/rootless/.local/share/docker"
"""Where the rootless image keeps its data (/var/lib/docker is the rootful image's)."""
STORAGE_DRIVER = "overlay2"
DAEMON_SOCKETS = "/run/user"
"""The volume of the sockets. A new volume here takes mode 1777 from the image's folder, so that the
daemon's user (1000) can write."""
DAEMON_SOCKET_NAME = "docker.sock"
DAEMON_SOCKET = f"{DAEMON_SOCKETS}/{DAEMON_SOCKET_NAME}"
GUARD_SOCKET_NAME = "guard.sock"
GUARD_SOCKET = f"{DAEMON_SOCKETS}/{GUARD_SOCKET_NAME}"
DAEMON_ALIAS = "docker"
"""Name of the daemon on its network."""

# In the gateway's container -----------------------------------------------------------------------

GATEWAY_USER = "builder"
"""The one user of the gateway's sshd."""
ACCESS_DIRECTORY = "/access"
"""Volume with authorized keys and revocations."""
GATEWAY_SOCKETS = "/run/builder"
"""The volume of the sockets, as the gateway sees it."""
SOCKET_VARIABLE = "BUILDER_SOCKET"
"""Names the socket of a session, set by its key's line of authorized_keys. Without it a session
gets the guard's socket."""
