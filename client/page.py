"""The status as one page: no script, no other file, light and dark, wide and narrow."""

from __future__ import annotations

import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from client.words import ago, size, span

if TYPE_CHECKING:
    from client.history import Build
    from client.status import HostKeyAge, KeyUse, Status

_STYLE = Path(__file__).parent / "page.css"
_COLUMNS = 50
_HITS = "Steps from the cache"


def page(status: Status) -> str:
    """The whole page."""
    well = not status.notices
    pill = (
        f'<span class="pill {"good" if well else "bad"}">{"well" if well else "look at it"}</span>'
    )
    asked = datetime.datetime.fromtimestamp(status.asked, datetime.UTC)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(status.builder)}</title>
<style>
{_STYLE.read_text()}</style>
<main>
<header>
<h1>{escape(status.builder)}</h1>
{pill}
<p class="soft">Docker {escape(status.version)}, up for {span(status.asked - status.up_since)}</p>
</header>
{_notices(status)}
<section class="tiles">
{_cache(status)}
{_disk(status)}
{_hits(status)}
{_now(status)}
</section>
{_builds(status)}
{_keys(status)}
{_parts(status)}
<footer>As of {asked:%Y-%m-%d %H:%M} UTC</footer>
</main>
</html>
"""


def _card(title: str, *content: str, kind: str = "") -> str:
    kinds = f"card {kind}".strip()
    return "\n".join([f'<section class="{kinds}">', f"<h2>{title}</h2>", *content, "</section>"])


def _meter(share: float, bad: bool = False) -> str:
    width = min(100.0, max(0.0, share * 100))
    kind = "meter bad" if bad else "meter"
    return f'<div class="{kind}"><i style="width: {width:.1f}%"></i></div>'


def _notices(status: Status) -> str:
    if not status.notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in status.notices)
    return _card("Look at", f"<ul>{items}</ul>", kind="bad")


def _cache(status: Status) -> str:
    share = status.cache / status.cache_cap if status.cache_cap else 0
    return _card(
        "Build cache",
        f'<p class="big">{size(status.cache)}</p>',
        _meter(share),
        f'<p class="soft">{share:.0%} of {size(status.cache_cap)}</p>',
    )


def _disk(status: Status) -> str:
    used = 1 - status.disk_free / status.disk if status.disk else 0
    return _card(
        "Disk",
        f'<p class="big">{size(status.disk_free)} <small>free</small></p>',
        _meter(used, bad=used > 0.95),
        f'<p class="soft">{used:.0%} of {size(status.disk)} used, images {size(status.images)}</p>',
    )


def _hits(status: Status) -> str:
    if status.hit_ratio is None:
        return _card(
            "Steps from the cache", '<p class="big">-</p>', '<p class="soft">no builds</p>'
        )
    return _card(
        _HITS,
        f'<p class="big">{status.hit_ratio:.0%}</p>',
        _meter(status.hit_ratio),
        f'<p class="soft">in the last {len(status.ended)} builds</p>',
    )


def _now(status: Status) -> str:
    connected = len(status.connections)
    return _card(
        "Builds now",
        f'<p class="big">{status.running}</p>',
        f'<p class="soft">{connected} connection{"s" * (connected != 1)} open</p>',
        f'<p class="soft">Limits: {escape(status.limits)}</p>',
    )


def _builds(status: Status) -> str:
    shown = status.ended[-_COLUMNS:]
    if not shown:
        return ""
    failed = sum(build.failed for build in shown)
    legend = (
        '<p class="legend">'
        '<span><b style="background: var(--full)"></b>steps from the cache</span>'
        '<span><b style="background: var(--part)"></b>steps that ran</span>'
        '<span><b style="background: var(--bad)"></b>failed</span></p>'
    )
    return _card(
        "Recent builds",
        '<div class="top">',
        f'<p class="soft">half took less than {status.median_seconds or 0:.1f} s, '
        f"{failed or 'none'} failed; the taller, the longer</p>",
        legend,
        "</div>",
        _columns(shown, status.asked),
    )


def _columns(builds: list[Build], asked: float) -> str:
    """A column for each build: as high as it took long, filled as far as steps were cached."""
    longest = max(build.seconds or 0 for build in builds) or 1
    step = 1000 / _COLUMNS
    columns = []
    for number, build in enumerate(builds):
        # By the square root, so that one long build leaves the others visible.
        height = max(6.0, 100 * ((build.seconds or 0) / longest) ** 0.5)
        cached = height * build.cached / build.steps if build.steps else 0
        x, width = number * step, step - 4
        told = (
            f"{ago(asked - build.started)}: {build.seconds or 0:.1f} s, {build.cached} of "
            f"{build.steps} steps from the cache{', failed' * build.failed}"
        )
        kind = "failed" if build.failed else "ran"
        columns.append(
            f"<g><title>{told}</title>"
            f'<rect class="{kind}" x="{x:.1f}" y="{100 - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/>'
            f'<rect class="cached" x="{x:.1f}" y="{100 - cached:.1f}" width="{width:.1f}" '
            f'height="{cached:.1f}"/></g>'
        )
    return (
        '<svg class="chart" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="the last {len(builds)} builds">{"".join(columns)}</svg>'
    )


def _keys(status: Status) -> str:
    rows = "".join(_key(key, status.asked) for key in status.keys)
    head = '<tr><th>Name<th>Last login<th>Open<th>Until<th class="wide">Fingerprint</tr>'
    refused = [
        f"{escape(visit.name)} <code>{escape(visit.fingerprint)}</code> from "
        f"{escape(visit.address)}, {ago(status.asked - visited(visit.time))}"
        for visit in status.refusals
    ]
    told = f'<p class="soft">Refused last: {"; ".join(refused)}</p>' if refused else ""
    return _card("Keys", f"<table>{head}{rows}</table>", told)


def visited(time: str) -> float:
    """Seconds since 1970 of a time in the gateway's log."""
    return datetime.datetime.fromisoformat(time).timestamp()


def _key(key: KeyUse, asked: float) -> str:
    last = ago(asked - visited(key.last_login)) if key.last_login else "none seen"
    kinds = ["certificates"] * key.is_authority + [escape(key.role)] * (key.role != "admin")
    told = f' <span class="soft">{", ".join(kinds)}</span>' if kinds else ""
    until = f'<span class="date">{escape(key.until)}</span>' if key.until else ""
    return (
        f"<tr><td>{escape(key.name)}{told}<td>{last}<td>{key.connected or ''}"
        f'<td>{until}<td class="wide"><code>{escape(key.fingerprint)}</code></tr>'
    )


def _parts(status: Status) -> str:
    rows = [
        *((f"Container {role}", escape(state)) for role, state in status.containers.items()),
        *(_host_key(key) for key in status.host_keys),
    ]
    if status.certificate_until:
        rows.append(("TLS between gateway and daemon", f"until {status.certificate_until}"))
    return _card("Parts", f"<table>{''.join(f'<tr><td>{a}<td>{b}</tr>' for a, b in rows)}</table>")


def _host_key(key: HostKeyAge) -> tuple[str, str]:
    presented = "presented" if key.presented else "accepted by clients"
    return f"Host key {key.generation}", f"{key.days} days old, {presented}"
