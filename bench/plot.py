"""Bars with their spread, as an SVG for light and dark pages."""

from __future__ import annotations

from html import escape

from bench.figures import Figure

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #30363d; }
.path { text-anchor: end; }
.title { font-weight: 600; font-size: 15px; }
.bar { fill: #9db4d6; } .own { fill: #2f6fdd; }
.spread { stroke: #30363d; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #d5dae1; } .bar { fill: #4a5f82; } .own { fill: #6ea1f7; }
  .spread { stroke: #d5dae1; }
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
