"""The page of the status in a real Chromium: a part of `make trials`, which writes docs/status/.

The builder on it is made up, so that the page has something of everything.
"""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from client.explain import Explained, explain
from client.forecast import Forecast
from client.history import Details, Step, days_of, summary
from client.status import HostKeyAge, IdentityUse, KeyUse, Status
from client.status_page import page
from tests.engine.figures import LONG
from tests.unit.conftest import ROOT
from tests.unit.test_builds import record
from tests.unit.test_client import shown

pytestmark = pytest.mark.skipif(not LONG, reason="pictures of make trials: they need Chromium")

FOLDER = ROOT / "docs" / "status"
NOW = 1_795_770_000.0
BUILDS = 50
INSTRUCTIONS = (
    "WORKDIR /app",
    "COPY requirements.txt .",
    "RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r "
    "requirements.txt",
    "COPY . .",
    "RUN python -m compileall -q . && python -m pytest -q tests",
)
NAMES = (
    "[internal] load build definition from Dockerfile",
    "[internal] load metadata for docker.io/library/python:3.13.9-slim",
    "[1/6] FROM docker.io/library/python:3.13.9-slim",
    "[internal] load build context",
    *(f"[{number}/6] {text}" for number, text in enumerate(INSTRUCTIONS, start=2)),
    "exporting to image",
)
ADA = "SHA256:q7Zt0dYcJt3uL1m5Wb9hVnE2sXkPfRaGi8oUvBzT4wM"
CI = "SHA256:Hn3xQe6Ld0cKpTzYw1uJgFb8mAsVr5iOo2tRkXyZ7aE"
FAILED = (12, 31, 47)


def made_up(number: int, chance: random.Random) -> Details:
    """One of the builds, in which the steps from a random one on ran."""
    start = at = NOW - (BUILDS - number) ** 1.6 * 900
    first_run = chance.choice((9, 7, 7, 7, 5))
    steps: list[Step] = []
    for place, name in enumerate(NAMES):
        is_instruction = name[1:2].isdigit() and "FROM" not in name
        cached = is_instruction and place < first_run
        length = chance.uniform(2, 20) if " RUN " in name else chance.uniform(0.05, 0.4)
        end = at if cached else at + length
        failed = number in FAILED and name == NAMES[-2]
        before = (steps[-1].digest,) if steps else ()
        if "COPY" in name:
            before = (*before, NAMES[3])
        sent = chance.randint(10**4, 10**6) if "context" in name else 0
        steps.append(Step(name, name, before, at, end, cached and not failed, failed, sent))
        at = end
        if failed:
            break
    error = f'process "/bin/sh -c {INSTRUCTIONS[-1][4:]}" did not complete: exit code: 1'
    image = "acme/web:1.4" if number % 3 else "registry.example.com/acme/payments-api:main-3f2a1bc"
    made = record(
        f"{chance.getrandbits(120):025x}"[:25],
        start,
        completed=at,
        images=(image,),
        options={"filename": "Dockerfile", "vcs:revision": "3f2a1bc99"},
        error=error if steps[-1].failed else None,
    )
    return Details(made, steps, {})


def status() -> Status:
    chance = random.Random(3)
    builds = [made_up(number, chance) for number in range(BUILDS)]
    made = [step.started or 0 for build in builds for step in build.steps]
    explained = [
        Explained(build, explain(build, builds[max(0, number - 20) : number][::-1], made, []))
        for number, build in enumerate(builds)
    ]
    return shown(
        asked=NOW,
        up_since=NOW - 1_000_000,
        builds=[summary(build.record, build.steps) for build in builds],
        days=days_of([build.record for build in builds]),
        explained=explained[::-1],
        disk=256 * 10**9,
        disk_free=61 * 10**9,
        disk_forecast=Forecast("full in about 9 days at the rate of the last 7 days", 9.0),
        cache=38 * 10**9,
        cache_cap=100 * 10**9,
        images=9 * 10**9,
        containers=dict.fromkeys(("daemon", "gateway", "janitor", "guard"), "running (healthy)"),
        keys=[
            KeyUse("ada", "admin", "2027-01-31", 1, "2026-11-27T05:00:00Z", ADA, False),
            KeyUse("ci", "build", "", 0, "2026-11-27T08:00:00Z", CI, False),
        ],
        identities=[
            IdentityUse(
                "main",
                "build",
                "",
                0,
                "2026-11-27T07:00:00Z",
                "https://token.actions.githubusercontent.com",
                {"repository": "acme/web", "ref": "refs/heads/main"},
            )
        ],
        host_keys=[HostKeyAge(1, True, 44)],
    )


def chromium(folder: Path, *words: str) -> str:
    """What Chromium prints; it has a profile of its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), "")
    assert browser, "no Chromium; next: apt-get install chromium, or Google Chrome on Ubuntu"
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    command = (browser, *fixed, f"--user-data-dir={folder}/profile", *words)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, with the newest build open."""
    file = tmp_path_factory.mktemp("page") / "status.html"
    text = page([status()])
    file.write_text(text.replace('<details class="build">', '<details class="build" open>', 1))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("wide", 1280, 1120), ("phone", 390, 1720)])
def test_pictures(written: Path, name: str, width: int, height: int, scheme: str) -> None:
    """Chromium has no window narrower than 500 pixels, so the page is in a frame."""
    frame = written.with_name("frame.html")
    frame.write_text(
        f'<body style="margin: 0"><iframe src="{written.name}" width="{width}" height="{height}" '
        'style="border: 0; display: block"></iframe>'
    )
    FOLDER.mkdir(exist_ok=True)
    picture = FOLDER / f"{name}-{scheme}.png"
    picture.unlink(missing_ok=True)
    chromium(
        written.parent,
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
        f"--window-size={width},{height}",
        f"--screenshot={picture}",
        frame.as_uri(),
    )
    assert picture.stat().st_size < 150_000
    assert picture.read_bytes()[16:24] == width.to_bytes(4, "big") + height.to_bytes(4, "big")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_page(written: Path, width: int) -> None:
    found = measured(written, width, "")
    assert found["wide"] == []
    assert found["width"] == width


def test_a_click_in_the_chart_opens_the_build(written: Path) -> None:
    """Also one of the older builds, which are in a closed list."""
    oldest = re.findall(r'href="#(build-\w+)"', written.read_text())[0]
    assert measured(written, 390, "")["open"] == 1
    found = measured(written, 390, f"view.location.hash = '{oldest}'")
    assert found["open"] == 3
    assert oldest in found["opened"]


def measured(written: Path, width: int, action: str) -> dict[str, Any]:
    """What a script sees of the page in a frame of this width, after the action."""
    frame = written.with_name("measure.html")
    frame.write_text(
        f"""<iframe src="{written.name}" width="{width}" height="800" style="border: 0"></iframe>
<script>
addEventListener("load", async () => {{
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  {action};
  await new Promise((done) => setTimeout(done, 500));
  const open = [...page.querySelectorAll("details[open]")];
  const found = {{
    width: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("body *:not(svg *)")]
      .filter((one) => one.getBoundingClientRect().right > {width} + 1)
      .map((one) => one.outerHTML.slice(0, 80)),
    open: open.length,
    opened: open.flatMap((one) => [...one.querySelectorAll(":scope > [id]")].map((e) => e.id)),
  }};
  document.body.textContent = "<" + JSON.stringify(found) + ">";
}});
</script>"""
    )
    dom = chromium(
        written.parent,
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    )
    shown = re.search(r"&lt;(\{.*\})&gt;", dom)
    assert shown, dom
    found: dict[str, Any] = json.loads(html.unescape(shown[1]))
    return found
