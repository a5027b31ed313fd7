"""Lines in their intervals, drawn without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from metagen.bootstrap import bounds

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, LEGEND = 620, 420, 76, 20, 40, 50, 24
PAPER, INK, GRID = (255, 255, 255), (40, 44, 52), (222, 226, 232)
COLOURS = (
    (36, 86, 200),
    (106, 148, 240),
    (194, 87, 26),
    (236, 160, 106),
    (44, 138, 87),
    (130, 196, 156),
    (138, 79, 192),
    (196, 160, 228),
    (120, 120, 120),
)
SCALE = 2


@dataclass(frozen=True)
class Line:
    """One line: values at ``x``, each with ``mean``, ``low`` and ``high``."""

    name: str
    x: Sequence[int]
    cells: Sequence[Mapping[str, float]]


def charts(panels: Mapping[str, Sequence[Line]], x_title: str, y_title: str) -> Image.Image:
    """One panel a title, two abreast, with one legend below."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    names = list(dict.fromkeys(line.name for lines in panels.values() for line in lines))
    height = down * HEIGHT + LEGEND * -(-len(names) // across) + 20
    canvas = Image.new("RGB", (across * WIDTH * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas, "RGBA")
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for number, (title, lines) in enumerate(panels.items()):
        corner = (number % across * WIDTH, number // across * HEIGHT)
        _panel(draw, corner, title, lines, colours, x_title, y_title)
    for number, name in enumerate(names):
        x, y = LEFT + number % across * WIDTH, down * HEIGHT + number // across * LEGEND + 12
        draw.line(_scaled([(x, y), (x + 28, y)]), fill=colours[name], width=3 * SCALE)
        _text(draw, (x + 36, y), name, "lm")
    return canvas


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    lines: Sequence[Line],
    colours: Mapping[str, tuple[int, int, int]],
    x_title: str,
    y_title: str,
) -> None:
    low, high = bounds(cell for line in lines for cell in line.cells)
    places = sorted({x for line in lines for x in line.x})
    span = (high - low) or 1.0

    def at(x: int, y: float) -> tuple[float, float]:
        """Places are evenly apart: they grow as powers do. What has diverged lies at the top."""
        across = places.index(x) / max(1, len(places) - 1)
        return (
            corner[0] + LEFT + across * (WIDTH - LEFT - RIGHT),
            corner[1] + TOP + (1 - (min(y, high) - low) / span) * (HEIGHT - TOP - BOTTOM),
        )

    for share in (0, 0.25, 0.5, 0.75, 1):
        value = low + share * span
        draw.line(_scaled([at(places[0], value), at(places[-1], value)]), fill=GRID, width=SCALE)
        _text(draw, (corner[0] + LEFT - 8, at(places[0], value)[1]), f"{value:.3f}", "rm")
    for x in places:
        _text(draw, (at(x, low)[0], corner[1] + HEIGHT - BOTTOM + 14), str(x), "mm")
    _text(draw, (corner[0] + (LEFT + WIDTH) / 2, corner[1] + HEIGHT - BOTTOM + 34), x_title, "mm")
    _text(draw, (corner[0] + LEFT, corner[1] + 16), f"{title}: {y_title}", "lm")
    for line in lines:
        colour = colours[line.name]
        band = [at(x, c["low"]) for x, c in zip(line.x, line.cells, strict=True)]
        band += [at(x, c["high"]) for x, c in reversed(list(zip(line.x, line.cells, strict=True)))]
        draw.polygon(_scaled(band), fill=(*colour, 22))
    for line in lines:
        points = _scaled([at(x, c["mean"]) for x, c in zip(line.x, line.cells, strict=True)])
        draw.line(points, fill=colours[line.name], width=2 * SCALE, joint="curve")


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str) -> None:
    draw.text(_scaled([at])[0], text, fill=INK, font=ImageFont.load_default(13 * SCALE), anchor=anchor)
