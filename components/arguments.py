"""What the components take, as editors, type checkers and other languages see it.

The descriptions are those of Pulumi.yaml, which also has the defaults. Annotations stay types here:
the SDK's analyzer makes the package's schema of them. Lists of objects are inputs, for Pulumi's
generator for Go lacks the types of plain ones. The settings say what may be an Output in them.
"""

from enum import Enum
from typing import TYPE_CHECKING, Literal, Required, TypedDict

import pulumi


class Transport(Enum):
    """How gateway and daemon talk."""

    SOCKET = "socket"
    """A Unix socket in a shared volume, no TCP port."""
    TLS = "tls"
    """Mutual TLS on TCP 2376 of the private network."""


class Isolation(Enum):
    """What the daemon's container may do on its host."""

    UNPRIVILEGED = "unprivileged"
    """Two capabilities, one device, its own seccomp profile."""
    PRIVILEGED = "privileged"
    """Everything, as its image documents."""


class PrivateNetworks(Enum):
    """Whether builds reach private, link-local and metadata addresses around the host."""

    ALLOW = "allow"
    """They do."""
    BLOCK = "block"
    """They do not."""


class ImageStore(Enum):
    """Where the daemon keeps images and build cache."""

    KEEP = "keep"
    """What the cache was written with; overlay2 for a new builder."""
    CONTAINERD = "containerd"
    """With attestations, cache exports and images for several platforms."""
    OVERLAY2 = "overlay2"
    """Without these."""


class Role(Enum):
    """What a key may do."""

    ADMIN = "admin"
    """Everything that the Docker API offers."""
    BUILD = "build"
    """Build, pull, push, tag and read."""


if TYPE_CHECKING:
    AnyTransport = Transport | Literal["socket", "tls"]
    AnyIsolation = Isolation | Literal["unprivileged", "privileged"]
    AnyPrivateNetworks = PrivateNetworks | Literal["allow", "block"]
    AnyImageStore = ImageStore | Literal["keep", "containerd", "overlay2"]
    AnyRole = Role | Literal["admin", "build"]
else:
    # The analyzer knows enums, and no unions.
    AnyTransport, AnyIsolation = Transport, Isolation
    AnyPrivateNetworks, AnyImageStore, AnyRole = PrivateNetworks, ImageStore, Role


class Key(TypedDict, total=False):
    """Who may log in: with which key, from where and until when."""

    name: Required[str]
    """Name in the log and in previews."""
    public_key: Required[pulumi.Input[str]]
    """One line of a .pub file."""
    from_: list[str]
    """Addresses or CIDR ranges from which the key is accepted. Empty: any."""
    until: str
    """Last day (YYYY-MM-DD, UTC) on which the key is accepted. Empty: always."""
    principals: list[str]
    """When given, the key is a certificate authority: a certificate that it signed for one of these
    principals gets in (ssh-keygen(1), -n), the key itself does not."""
    role: AnyRole
    """What those who log in with it may do; the default is admin."""


class RevokedKey(TypedDict, total=False):
    """A key by its fingerprint, or a certificate by its authority and its serial or id."""

    fingerprint: str
    """Of a key or of a certificate's key, as `ssh-keygen -lf` prints it: SHA256:..."""
    ca: str
    """Name of the key with principals that signed the certificate."""
    serial: int
    """The certificate's serial number."""
    id: str
    """The certificate's identity (ssh-keygen(1), -I)."""


class Identity(TypedDict, total=False):
    """Which jobs may log in with a token of their CI, and what they may do."""

    name: Required[str]
    """Name in the log and in previews."""
    issuer: Required[str]
    """The CI's issuer, an https:// URL, exactly as its tokens have it."""
    audience: Required[str]
    """For whom a token must be; the job asks for it."""
    claims: Required[dict[str, str]]
    """What a token must say. Each text is exact, but * stands for any characters except a colon."""
    role: AnyRole
    """What the jobs may do; the default is build."""
    until: str
    """Last day (YYYY-MM-DD, UTC) on which the rule counts. Empty: always."""
    issuer_ca: str
    """Certificates in PEM that the issuer's TLS certificate is checked with. Empty: those of the
    guard's image."""


class RegistryClient(TypedDict, total=False):
    """What a registry gives to its clients: its outputs of these names."""

    store: Required[pulumi.Input[str]]
    """host:port of the store."""
    mirror: Required[pulumi.Input[str]]
    """host:port of the mirror of Docker Hub."""
    mirrored: pulumi.Input[dict[str, str]]
    """host:port of each mirror of another registry, by that registry's name."""
    ca: Required[pulumi.Input[str]]
    """Certificate of the registry's CA, in PEM."""
    certificate: Required[pulumi.Input[str]]
    """The clients' certificate, in PEM."""
    key: Required[pulumi.Input[str]]
    """Its private key, in PEM; a secret."""


class RegistryMirror(TypedDict, total=False):
    """A mirror of one more registry than Docker Hub, beside the store."""

    registry: Required[str]
    """Start of the names of its images, such as ghcr.io."""
    port: Required[int]
    """Port of the mirror on the host, 1 to 65535."""
    upstream: str
    """What the mirror asks for what it does not have: https://host[:port]. Left out: https:// and
    the registry."""
    user: pulumi.Input[str]
    """Name with which the mirror logs in there. Empty: it does not log in."""
    token: pulumi.Input[str]
    """Access token or password of that user; a secret."""
    check: str
    """A repository there that `pulumi up` asks for, to check the login, such as acme/base. Empty:
    the login is not checked."""


class Host(TypedDict, total=False):
    """A machine that gets a builder of its own."""

    name: Required[str]
    """Name of the host and its builder: 1 to 30 small letters, digits and dashes."""
    host: Required[pulumi.Input[str]]
    """Where Docker runs: unix:///path/to/docker.sock or ssh://user@host[:port]."""
    host_key: pulumi.Input[str]
    """Public SSH host key of an ssh:// host ("ssh-ed25519 AAAA..."), checked at every connection,
    also the first. Required for ssh:// hosts."""
    ssh_host: pulumi.Input[str]
    """Name or address that clients use for the gateway. Empty: the host in an ssh:// URL, or
    127.0.0.1 for a local host."""
    ssh_address: str
    """Address of the host on which the gateway listens. Empty: the sshAddress of all hosts."""
    ssh_port: int
    """Port of the host on which the gateway listens. Left out: the sshPort of all hosts."""
    metrics: str
    """Address of the host and port on which it serves its metrics. Left out: the metrics of all
    hosts."""
    platforms: list[str]
    """Platforms that the host builds for, such as linux/arm64. The host must have them or emulate
    them. Empty: its own architecture."""
    labels: dict[str, str]
    """Labels by which projects choose a host."""
    weight: int
    """Its share of the projects, 1 to 100, against the other hosts' weights."""


class SharedArgs(TypedDict, total=False):
    """The settings that several builders can have in common."""

    prepare: bool
    """Whether `pulumi up` may set up what is missing on a host, as root or with sudo without a
    password, if that needs no restart: kernel modules, /dev/net/tun, user namespaces, emulation
    of `platforms` (Debian and Ubuntu). It prints what it ran; a preview prints what it would
    run."""
    ssh_address: str
    """Address of the Docker host on which the gateway listens."""
    ssh_port: int
    """Port of the Docker host on which the gateway listens, 1 to 65535."""
    keys: Required[pulumi.Input[list[pulumi.Input[Key]]]]
    """Who may use the builder: a list of {name, publicKey} with optional `from` (a list of
    addresses or CIDR ranges) and `until` (last day, YYYY-MM-DD, UTC). With `principals` (a list)
    the key is a certificate authority: certificates that it signed for one of them get in. A key
    with `role: build` may only build, pull, push, tag and read; the default role is admin."""
    revoked: pulumi.Input[list[pulumi.Input[RevokedKey]]]
    """Keys and certificates that never get in: a list of {fingerprint}, {ca, serial} or {ca, id},
    where `ca` is the name of a key with principals."""
    identities: pulumi.Input[list[pulumi.Input[Identity]]]
    """Jobs that log in with a token of their CI instead of a key: a list of {name, issuer,
    audience, claims} with optional `role` (build, the default, or admin), `until` (last day,
    YYYY-MM-DD, UTC) and issuerCa (PEM, for an issuer without a public certificate). `claims` is a
    map of what the token must say: exact, but * stands for any characters except a colon; one of
    them names the owner."""
    host_keys: list[int]
    """Generations of the gateway's host key, 1 to 3 of them. The gateway presents the first;
    knownHosts lists all. [1] -> [1, 2] -> [2, 1] -> [2] rotates the key while clients accept both.
    """
    transport: AnyTransport
    """How gateway and daemon talk: socket (a Unix socket in a shared volume, no TCP port) or tls
    (mutual TLS on TCP 2376 of the private network)."""
    isolation: AnyIsolation
    """What the daemon's container may do on its host: unprivileged (a few capabilities, one device,
    its own seccomp profile) or privileged (everything, as the image's documentation asks for)."""
    private_networks: AnyPrivateNetworks
    """Whether builds reach private, link-local and metadata addresses around the host: allow or
    block. Registries on the Internet and name servers stay reachable. `block` needs `isolation:
    unprivileged`."""
    private_networks_except: list[str]
    """Addresses or CIDR ranges that stay reachable with `privateNetworks: block`, such as your own
    registry."""
    daemon_image: str
    """Image for the daemon; must behave like docker:<version>-dind-rootless."""
    gateway_image: str
    """Image for the gateway; must behave like linuxserver/openssh-server."""
    guard_image: str
    """Image for the guard, which runs if a key has the role build, for the verifier, which runs if
    there are identities, and for metrics; must behave like python:<version>-alpine, 3.11 or
    newer."""
    image_store: AnyImageStore
    """Where the daemon keeps images and build cache: containerd (it has attestations, cache exports
    and images for several platforms), overlay2 (it has none of these), or keep (what the cache was
    written with; overlay2 for a new builder). After a change the other store stays on the disk,
    unused."""
    cache_size: str
    """How large the build cache may get before the least recently used part is deleted: a size such
    as 50GB, or a share of the disk such as 40%."""
    min_free_space: str
    """How much of the disk stays free: a size or a share. Below it, the janitor deletes leftovers,
    old images and cache beyond half of cacheSize at once."""
    keep_cache: bool
    """Whether the cache volume and the gateway's host key are protected, so that `pulumi destroy
    --exclude-protected` keeps them. To delete them, set false, run `pulumi up`, then `pulumi
    destroy`."""
    leftover_age: str
    """How long to keep what jobs leave behind: stopped containers, untagged images, anonymous
    volumes, unused networks, builders of setup-buildx. A number and s, m, h, d or w."""
    image_age: str
    """How long to keep an unused tagged image after it was last tagged or pulled."""
    keep_images: list[str]
    """Images that are never deleted, by name; * ? and [] match as in a shell, such as acme/base:*.
    The label docker-build-machine.keep protects an image, container or network too."""
    history_age: str
    """How long the daemon remembers each build, for `python -m client builds`: steps, logs and
    provenance, about 0.2 MB for each build, beside cacheSize. A number and s, m, h, d or w."""
    history_builds: int
    """How many builds the daemon remembers however old they are, 1 to 100000. A build is forgotten
    when it is older than historyAge and so many builds are newer."""
    metrics: str
    """Address of the Docker host and port on which the builder serves its metrics to Prometheus,
    such as 10.0.0.5:9105; the page has no login. Empty: none. Two more containers read the builder
    and serve the page."""
    traces: str
    """Collector to which the daemon sends OpenTelemetry traces of builds and API calls over
    OTLP/HTTP, such as http://collector.example:4318; /v1/traces is added. Empty: none. The traces
    contain the values of build arguments."""
    drain_time: str
    """How long `pulumi up` waits for builds in flight before it replaces the daemon; new builds
    wait meanwhile. A number and s, m, h, d or w."""
    memory: str
    """Memory for the daemon and all builds together, such as 8GB. Empty: no limit."""
    cpus: str
    """CPUs for the daemon and all builds together, such as 2 or 1.5. Empty: no limit."""
    processes: int
    """Processes and threads for all build steps and containers together, 500 to 1000000. A host may
    allow fewer to a container; builds then get fewer. With `memory` set, count about 0.3 MB for
    each."""
    insecure_registries: list[str]
    """Registries (host[:port]) that builds may reach over plain HTTP."""
    registry_client: pulumi.Input[RegistryClient]
    """A registry for the daemon to push to, pull from and use as a mirror of Docker Hub: the
    outputs of a Registry. Left out: none."""


class BuilderArgs(SharedArgs, total=False):
    """The settings of one builder; every one that is wrong is reported."""

    host: pulumi.Input[str]
    """Where Docker runs: unix:///path/to/docker.sock or ssh://user@host[:port]."""
    host_key: pulumi.Input[str]
    """Public SSH host key of an ssh:// host ("ssh-ed25519 AAAA..."), checked at every connection,
    also the first. Required for ssh:// hosts."""
    ssh_host: pulumi.Input[str]
    """Name or address that clients use for the gateway. Empty: the host in an ssh:// URL, or
    127.0.0.1 for a local host."""
    platforms: list[str]
    """Platforms that the host builds for, such as linux/arm64. The host must have them or emulate
    them. Empty: its own architecture."""


class FleetArgs(SharedArgs, total=False):
    """A builder on each of several hosts, with the same settings."""

    hosts: Required[pulumi.Input[list[pulumi.Input[Host]]]]
    """Several hosts instead of one, with a builder on each: a list of {name, host, hostKey} with
    optional sshHost, sshAddress, sshPort, metrics, platforms, labels (a map) and weight (1 to 100,
    its share of the projects). All other settings apply to every host."""
    buildkit_image: str
    """Image for the nodes of a multi-platform builder; must behave like moby/buildkit."""


class FleetBuilder(TypedDict):
    """One builder of a fleet: how clients reach it, and by what they choose it."""

    name: str
    """Of its host, in `hosts`."""
    labels: dict[str, str]
    """Labels by which projects choose a host."""
    weight: int
    """Its share of the projects, against the other hosts' weights."""
    platforms: list[str]
    """Platforms that the host builds for. Empty: its own architecture."""
    sshDestination: str
    """user@host of the gateway."""
    dockerHost: str
    """Value for DOCKER_HOST that needs `knownHosts` alone on the client."""
    sshAlias: str
    """Host name that `sshConfig` defines: DOCKER_HOST=ssh://<alias> shares connections."""
    sshConfig: str
    """A block for the client's ~/.ssh/config, the pinned host key included."""
    knownHosts: str
    """Lines for the client's known_hosts, one for each generation of the host key."""


class RegistryArgs(TypedDict, total=False):
    """The settings of a registry; every one that is wrong is reported."""

    host: pulumi.Input[str]
    """Where Docker runs: unix:///path/to/docker.sock or ssh://user@host[:port]."""
    host_key: pulumi.Input[str]
    """Public SSH host key of an ssh:// host ("ssh-ed25519 AAAA..."), checked at every connection,
    also the first. Required for ssh:// hosts."""
    name: pulumi.Input[str]
    """Name or IPv4 address by which builders reach the host from their containers. Empty: the host
    of an ssh:// host; a local host needs one, not in 127.0.0.0/8 and not in 172.17.0.0/16."""
    address: str
    """Address of the host on which store and mirror listen."""
    port: int
    """Port of the store, which builders push to and pull from, 1 to 65535."""
    mirror_port: int
    """Port of the mirror, through which builders pull images of Docker Hub, 1 to 65535."""
    upstream: str
    """What the mirror asks for what it does not have: https://host[:port]."""
    user: pulumi.Input[str]
    """Name with which the mirror logs in there. Empty: it does not log in."""
    token: pulumi.Input[str]
    """Access token or password of that user; a secret."""
    mirrors: pulumi.Input[list[pulumi.Input[RegistryMirror]]]
    """Mirrors of other registries than Docker Hub: a list of {registry, port} with optional
    upstream, user, token and check. Builds use them; so does `docker pull` with containerd's image
    store."""
    size: str
    """How large the store may get before the tags that were pushed the longest ago are deleted: a
    size such as 50GB."""
    age: str
    """How long after its last push a tag is deleted, and how long the mirror keeps what it pulled:
    a number and s, m, h, d or w."""
    certificates: int
    """Generation of the certificates; another number renews all of them. They end after ten
    years."""
    image: str
    """Image for the registry; must behave like registry:<version> (distribution)."""
