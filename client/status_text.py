"""The status as text for a terminal."""

from __future__ import annotations

import datetime

from humanize import naturalsize, naturaltime

from client.status import ClientUse, HostKeyAge, IdentityUse, KeyUse, Status, Unread, timestamp


def as_text(status: Status | Unread) -> str:
    """The status for a terminal."""
    if isinstance(status, Unread):
        notices = [f"  look at   {notice}" for notice in status.notices]
        return "\n".join([f"{status.builder}: cannot be read", *notices])
    since = datetime.datetime.fromtimestamp(status.up_since, datetime.UTC)
    up = f"Docker {status.version}, up since {since:%Y-%m-%d %H:%M} UTC"
    share = f" ({status.cache / status.cache_cap:.0%})" if status.cache_cap else ""
    rows = [
        ("cache", f"{naturalsize(status.cache)} of {naturalsize(status.cache_cap)}{share}"),
        ("images", naturalsize(status.images)),
        ("store", store_text(status)),
        ("limits", status.limits),
        (
            "disk",
            f"{naturalsize(status.disk_free)} of {naturalsize(status.disk)} free; "
            f"{status.disk_forecast.text}",
        ),
        ("builds", f"{status.running} now; {_builds_text(status)}"),
        *(("key", f"{key.name:12} {_key_text(key, status.asked)}") for key in status.keys),
        *(
            ("identity", f"{one.name:12} {_identity_text(one, status.asked)}")
            for one in status.identities
        ),
        *(
            ("now", f"{visit.name} from {visit.address} since {visit.time}")
            for visit in status.connections
        ),
        *(
            ("refused", f"{visit.name} {visit.fingerprint} from {visit.address} at {visit.time}")
            for visit in status.refusals
        ),
        *(("host key", _host_key_text(key)) for key in status.host_keys),
    ]
    if status.certificate_until:
        rows.append(("TLS", f"certificates until {status.certificate_until}"))
    rows.append(("parts", ", ".join(f"{role} {is_}" for role, is_ in status.containers.items())))
    rows += [("look at", notice) for notice in status.notices]
    return "\n".join([f"{status.builder}: {up}", *(f"  {name:9} {text}" for name, text in rows)])


def ago(seconds: float) -> str:
    """How long ago; the clocks of two machines may differ a little."""
    return naturaltime(max(0.0, seconds))


def store_text(status: Status) -> str:
    """The image store, and what is left of another one."""
    if not status.idle_store:
        return status.image_store
    return (
        f"{status.image_store}; {status.idle_store} is on the disk too, unused; to delete it: "
        "make free"
    )


def _builds_text(status: Status) -> str:
    """The recent builds, in one line."""
    if status.hit_ratio is None or status.median_seconds is None:
        return status.no_history or "none remembered"
    failed = sum(build.failed for build in status.ended)
    return (
        f"of the last {len(status.ended)}: {status.hit_ratio:.0%} of the steps cached, "
        f"{failed} failed, half took less than {status.median_seconds:.1f} s"
    )


def _key_text(key: KeyUse, now: float) -> str:
    """Use and end of one key."""
    words = ["certificates"] if key.is_authority else []
    return ", ".join([*words, *_use(key, now)])


def _identity_text(identity: IdentityUse, now: float) -> str:
    """Who issues the tokens, what they must say, use and end of one identity."""
    claims = [f"{name} {text}" for name, text in identity.claims.items()]
    return ", ".join([identity.issuer, *claims, *_use(identity, now)])


def _use(client: ClientUse, now: float) -> list[str]:
    words = [] if client.role == "admin" else [f"role {client.role}"]
    if client.connected:
        words.append(f"{client.connected} connected")
    words.append(
        f"last login {ago(now - timestamp(client.last_login))}"
        if client.last_login
        else "no login remembered"
    )
    if client.until:
        words.append(f"until {client.until}")
    return words


def _host_key_text(key: HostKeyAge) -> str:
    """Age and use of one host key."""
    return f"generation {key.generation}, {key.days} days old{', presented' * key.presented}"
