"""A chart of many small panels as SVG, by hand: one panel for each figure, one line for each daemon."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from soak.samples import Series

WIDTH: Final = 420
HEIGHT: Final = 150
MARGIN: Final = 34
COLUMNS: Final = 2
COLOURS: Final = ("#1b6ca8", "#c0392b", "#27864b", "#8e44ad", "#b9770e", "#34495e")
POINTS: Final = 400  # of one line: more would not be seen


def draw(title: str, series: Sequence[Series]) -> str:
    """The SVG document."""
    names = list(dict.fromkeys(one.name for one in series))
    rows = -(-len(names) // COLUMNS)
    height = 40 + rows * HEIGHT
    body = [
        _panel(name, [one for one in series if one.name == name], place) for place, name in enumerate(names)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="10">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="22" font-size="14">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def _panel(name: str, lines: Sequence[Series], place: int) -> str:
    left, top = (place % COLUMNS) * WIDTH, 40 + (place // COLUMNS) * HEIGHT
    wide, high = WIDTH - 2 * MARGIN - 60, HEIGHT - 2 * MARGIN
    most = max((value for line in lines for _, value in line.points), default=0.0) or 1.0
    end = max((at for line in lines for at, _ in line.points), default=0.0) or 1.0
    parts = [
        f'<g transform="translate({left + MARGIN},{top + MARGIN})">',
        f'<rect width="{wide}" height="{high}" fill="none" stroke="#ccc"/>',
        f'<text y="-6">{escape(name)}, up to {most:,.6g}; {end / 60:.0f} min</text>',
    ]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        step = max(1, len(line.points) // POINTS)
        drawn = " ".join(
            f"{at / end * wide:.1f},{high - value / most * high:.1f}" for at, value in line.points[::step]
        )
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>')
        parts.append(
            f'<text x="{wide + 4}" y="{10 + number * 12}" fill="{colour}">{escape(line.daemon)}</text>'
        )
    return "".join((*parts, "</g>"))
