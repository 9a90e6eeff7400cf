"""Bars with their spread, and lines, as SVG for light and dark pages."""

from __future__ import annotations

from html import escape

from bench.figures import Figure

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #30363d; }
.path { text-anchor: end; }
.title { font-weight: 600; font-size: 15px; }
.bar { fill: #9db4d6; } .own { fill: #2f6fdd; }
.spread { stroke: #30363d; stroke-width: 1.5; }
.line { fill: none; stroke: #9db4d6; stroke-width: 2.5; } .line.own { stroke: #2f6fdd; }
.axis { stroke: #8b949e; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  text { fill: #d5dae1; } .bar { fill: #4a5f82; } .own { fill: #6ea1f7; }
  .spread { stroke: #d5dae1; } .line { stroke: #4a5f82; } .line.own { stroke: #6ea1f7; }
}
"""
_OWN = ("kit", "ssh, ")
_WIDTH, _LABELS, _VALUES, _ROW, _TOP = 800, 290, 70, 26, 44


def bars(title: str, figures: list[Figure]) -> str:
    """One bar per path, as long as its median, with a thin line from minimum to maximum."""
    longest = max(max(figure.samples) for figure in figures) or 1
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    height = _TOP + _ROW * len(figures) + 10
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'width="{_WIDTH}" height="{height}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(title)} ({escape(figures[0].unit)})</text>',
    ]
    for number, figure in enumerate(figures):
        top = _TOP + number * _ROW
        middle, least, most = (
            _LABELS + value * scale
            for value in (figure.median, min(figure.samples), max(figure.samples))
        )
        own = " own" if figure.path.startswith(_OWN) else ""
        rows += [
            f'<text class="path" x="{_LABELS - 10}" y="{top + 13}">{escape(figure.path)}</text>',
            f'<rect class="bar{own}" x="{_LABELS}" y="{top}" width="{middle - _LABELS:.1f}" '
            f'height="{_ROW - 8}" rx="2"/>',
            f'<path class="spread" d="M{least:.1f} {top + 9}H{most:.1f}"/>',
            f'<text x="{most + 8:.1f}" y="{top + 13}">{figure.median:.3g}</text>',
        ]
    return "\n".join([*rows, "</svg>", ""])


def lines_by(title: str, curves: dict[str, list[tuple[int, float]]]) -> str:
    """One line per path through its points, with its name and last value at the right end."""
    curves = {path: points for path, points in curves.items() if points}
    across = sorted({x for points in curves.values() for x, _ in points})
    most = max(y for points in curves.values() for _, y in points) or 1
    left, right, bottom = 50, _WIDTH - 300, 320

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / across[-1], bottom - (bottom - _TOP) * y / most

    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 30}" role="img" '
        f'width="{_WIDTH}" height="{bottom + 30}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(title)}</text>',
        f'<path class="axis" d="M{left} {bottom}H{right}"/>',
    ]
    rows += [
        f'<text x="{place(x, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>'
        for x in across
    ]
    # Names that would overlap move down, from the highest line to the lowest.
    lowest = float("-inf")
    for path, points in sorted(curves.items(), key=lambda curve: -curve[1][-1][1]):
        own = " own" if path.startswith(_OWN) else ""
        course = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        lowest = max(place(*points[-1])[1] + 4, lowest + 16)
        rows += [
            f'<polyline class="line{own}" points="{course}"/>',
            f'<text x="{right + 10}" y="{lowest:.1f}">{escape(path)}: {points[-1][1]:.3g}</text>',
        ]
    return "\n".join([*rows, "</svg>", ""])
