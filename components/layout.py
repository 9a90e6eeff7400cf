"""Names, paths and ports that several parts of a builder use; each is defined here once."""

OWNER_LABEL = "docker-build-machine.owner"
"""Label of everything on the host; its value is project/stack/component."""

APPARMOR_PROFILE = "docker-build-machine"
"""The AppArmor profile that preflight.sh loads; it allows user namespaces to the daemon's container
where AppArmor restricts them."""

# In the daemon's container ------------------------------------------------------------------------

DATA_DIRECTORY = "/home/rootless/.local/share/docker"
"""Where the rootless image keeps its data (the rootful image uses /var/lib/docker)."""
IMAGE_STORE_VARIABLE = "BUILDER_IMAGE_STORE"
"""Environment variable with the image store that the daemon uses: containerd or overlay2."""
DAEMON_USER = "1000:1000"
"""The daemon's user and group, as `docker exec --user` takes them."""
DAEMON_CONFIG = "/etc/docker-build-machine/daemon.json"
"""dockerd's configuration file."""
DAEMON_SOCKETS = "/run/user"
"""Where the volume with the sockets is mounted. A new volume gets mode 1777 from this folder of the
image, so that the daemon's user (1000) can write to it."""
DAEMON_SOCKET_NAME = "docker.sock"
DAEMON_SOCKET = f"{DAEMON_SOCKETS}/{DAEMON_SOCKET_NAME}"
GUARD_SOCKET_NAME = "guard.sock"
GUARD_SOCKET = f"{DAEMON_SOCKETS}/{GUARD_SOCKET_NAME}"
DAEMON_ALIAS = "docker"
"""Name of the daemon on its network."""

# In the gateway's container -----------------------------------------------------------------------

GATEWAY_USER = "builder"
"""The only user of the gateway's sshd."""
ACCESS_DIRECTORY = "/access"
"""Where the volume with authorized keys and revocations is mounted."""
GATEWAY_LIBRARY = "/usr/local/lib/gateway"
"""Where the scripts, sshd's configuration and the host key are. init.sh has the same path."""
TOKEN_USER = "token"
"""The user as whom a job sends its CI's token; it has the id of GATEWAY_USER."""
IDENTITIES_DIRECTORY = "/identities"
"""Where the volume of the verifier is mounted: its socket and what it has accepted."""
VERIFIER_SOCKET = f"{IDENTITIES_DIRECTORY}/verifier.sock"
GATEWAY_SOCKETS = "/run/builder"
"""Where the volume with the sockets is mounted in the gateway."""
SOCKET_VARIABLE = "BUILDER_SOCKET"
"""Environment variable with the socket of a session, set by the key's line of authorized_keys.
Without it a session gets the guard's socket."""
