"""The picture of ``metagen policy show``: a panel a category, layers down, steps across, colours for step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metagen.picture import MARGIN, PAPER, TEXT, legible

COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""From the smallest step size to the largest: five of matplotlib's viridis, told apart in grey too."""
RULES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
CELL, WIDTH, BAR, GAP = 15, 300, 16, 24
"""Height of a layer's row, width of a panel, height of the bar of rules, space between panels."""


class Panel(NamedTuple):
    """One group of tasks."""

    title: str
    rules: dict[str, float]
    log10_sizes: Tensor
    """``[steps, L]``; may have no steps."""


def plot(panels: Sequence[Panel], layers: Sequence[str]) -> Image.Image:
    """Panels side by side over the same layers and the same scale of colours."""
    font = ImageFont.load_default(12)
    layers = [legible(name) for name in layers]
    left = MARGIN + max(int(font.getlength(name)) for name in layers) + MARGIN
    top = MARGIN + 20 + BAR + 24
    high, wide = len(layers) * CELL, len(panels) * (WIDTH + GAP)
    canvas = Image.new("RGB", (left + wide + 90, top + high + 40), PAPER)
    draw = ImageDraw.Draw(canvas)
    # A layer that did not move (-inf) gets the colour of the least that did.
    sizes = np.concatenate([panel.log10_sizes.numpy().ravel() for panel in panels] or [np.zeros(0)])
    sizes = sizes[np.isfinite(sizes)]
    low, highest = (float(sizes.min()), float(sizes.max())) if len(sizes) else (-6.0, -3.0)
    highest = max(highest, low + 0.1)
    rules = list(dict.fromkeys(rule for panel in panels for rule in panel.rules))
    for row, name in enumerate(layers):
        draw.text((left - 6, top + (row + 0.5) * CELL), name, fill=TEXT, font=font, anchor="rm")
    for number, panel in enumerate(panels):
        x = left + number * (WIDTH + GAP)
        draw.text((x, MARGIN), legible(panel.title), fill=TEXT, font=ImageFont.load_default(14))
        _bar(draw, panel.rules, rules, x, MARGIN + 20)
        for row in range(len(layers)):
            steps = panel.log10_sizes.shape[0]
            y = top + row * CELL
            for j in range(steps):
                share = (float(panel.log10_sizes[j, row]) - low) / (highest - low)
                box = (x + j * WIDTH // steps, y, x + (j + 1) * WIDTH // steps - 1, y + CELL - 2)
                draw.rectangle(box, fill=_colour(share))
        draw.text((x, top + high + 4), f"inner step 1 to {panel.log10_sizes.shape[0]}", fill=TEXT, font=font)
    _scale(draw, left + wide, top, high, low, highest)
    return canvas


def _bar(draw: ImageDraw.ImageDraw, shares: dict[str, float], rules: list[str], x: int, y: int) -> None:
    """The shares of the rules, side by side, with their names below."""
    font, start, text = ImageFont.load_default(12), float(x), x
    for rule, share in shares.items():
        colour = RULES[rules.index(rule) % len(RULES)]
        draw.rectangle((start, y, start + share * WIDTH - 1, y + BAR - 1), fill=colour)
        start += share * WIDTH
        label = f"{rule} {share:.0%}"
        draw.text((text, y + BAR + 1), label, fill=colour, font=font)
        text += int(font.getlength(label)) + 10


def _scale(draw: ImageDraw.ImageDraw, x: int, top: int, high: int, low: float, highest: float) -> None:
    """What the colours stand for."""
    font = ImageFont.load_default(12)
    for row in range(high):
        draw.rectangle((x, top + row, x + 14, top + row), fill=_colour(1 - row / max(1, high - 1)))
    for share in (0.0, 0.5, 1.0):
        size = 10 ** (low + share * (highest - low))
        draw.text((x + 20, top + (1 - share) * (high - 1)), f"{size:.1e}", fill=TEXT, font=font, anchor="lm")


def _colour(share: float) -> tuple[int, int, int]:
    """Between the colours, for a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    one, other = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in COLOURS[low : low + 2])
    red, green, blue = (one + (place - low) * (other - one)).round().astype(int).tolist()
    return red, green, blue
