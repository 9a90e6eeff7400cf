"""The report of a run: speed.md with its tables, speed.json with every sample, plots as SVG."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shutil
from pathlib import Path

from bench import distance, handshake
from bench.builds import WARM, group_of
from bench.client import run
from bench.figures import Figure, Outcome, outcomes
from bench.plot import bars, lines_by
from bench.steps import DOWNLOAD
from bench.targets import LOCAL, targets
from bench.workloads import NAMES

_PLOTS = {
    WARM: "warm",
    **{group_of(name, "source"): f"source-{name}" for name in NAMES},
    **{group_of(name, "dependency"): f"dependency-{name}" for name in NAMES},
    handshake.GROUP: "handshake",
    DOWNLOAD: "download",
}


def write(folder: Path, figures: list[Figure], *, short: bool, minutes: float) -> None:
    """Write the report; the same figures make the same bytes, except for the header."""
    plots = folder / "speed"
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir(parents=True)
    samples = [dataclasses.asdict(figure) for figure in figures]
    (plots / "samples.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    for group, name in _PLOTS.items():
        of_group = [figure for figure in figures if figure.group == group]
        if of_group:
            (plots / f"{name}.svg").write_text(bars(group, of_group))
    curves = {
        path: [
            (milliseconds, figure.median)
            for milliseconds in distance.MILLISECONDS
            for figure in figures
            if (figure.group, figure.path) == (distance.at(milliseconds), path)
        ]
        for path in distance.PATHS
    }
    if any(curves.values()):
        plot = lines_by(f"{distance.TITLE} (s, by the round trip in ms)", curves)
        (plots / "distance.svg").write_text(plot)
    (folder / "speed.md").write_text(page(figures, short=short, minutes=minutes))


def page(figures: list[Figure], *, short: bool, minutes: float) -> str:
    """The Markdown page."""
    lines = [
        "# Speed",
        "",
        f"Written by `make bench{' SHORT=yes' if short else ''}` on "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, in {minutes:.0f} minutes on one machine: "
        f"{machine()}. All paths were measured side by side, in turns. The tables show medians, "
        "minimum and maximum. All samples: [samples.json](speed/samples.json).",
        "",
        *_targets(outcomes(targets(), figures)),
        *(Path(__file__).parent / "remarks.md").read_text().splitlines(),
        "",
    ]
    lines += distance.section(figures)
    for group in dict.fromkeys(figure.group for figure in figures):
        if group in distance.GROUPS:
            continue
        lines += _group(group, [figure for figure in figures if figure.group == group])
    return "\n".join(lines)


def machine() -> str:
    """Cores, kernel and the releases in use."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    engine = run("docker", "version", "--format", "{{.Server.Version}}; docker {{.Client.Version}}")
    buildx = run("docker-buildx", "version").stdout.split()[1]
    ssh = run("ssh", "-V", capture_output=False, stdout=-1, stderr=-2).stdout.split(",")[0]
    return (
        f"{os.cpu_count()} cores ({model[0] if model else platform.machine()}), Linux "
        f"{platform.release()}, Docker {engine.stdout.strip()} and buildx {buildx} as the client, "
        f"{ssh}"
    )


def _targets(reached: list[Outcome]) -> list[str]:
    lines = [
        "## Targets",
        "",
        "| what | target | measured | |",
        "|---|---|---|---|",
    ]
    for outcome in reached:
        target = outcome.target
        mark = "reached" if outcome.reached else "**missed**"
        lines.append(
            f"| {target.what} | {target.sense} {target.bound:g} | {outcome.ratio:.2f} | {mark} |"
        )
    return [*lines, ""]


def _group(group: str, figures: list[Figure]) -> list[str]:
    lines = [f"## {group}", ""]
    if group in _PLOTS:
        lines += [f"![{group}](speed/{_PLOTS[group]}.svg)", ""]
    unit = f" ({figures[0].unit})" if figures[0].unit else ""
    local = [figure.median for figure in figures if figure.path == LOCAL and figure.median]
    against = f" | relative to the {LOCAL}" if local and figures[0].unit else ""
    lines.append(f"| | median{unit} | min to max | times{against} |")
    lines.append("|---" * (5 if against else 4) + "|")
    for figure in figures:
        spread = f"{_shown(min(figure.samples))} to {_shown(max(figure.samples))}"
        ratio = f" | {figure.median / local[0]:.2f}" if against else ""
        lines.append(
            f"| {figure.path} | {_shown(figure.median)} | {spread} | {len(figure.samples)}{ratio} |"
        )
    return [*lines, ""]


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
