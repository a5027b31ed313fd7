"""Structure in few numbers: how many levels, how wide, how much wider a level, attention up to which resolution.

A list of widths whose length is itself searched cannot be given key by key. These names stand for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from metagen.values import get

STRUCTURE = ("levels", "width", "growth", "attention_resolution")
"""``levels``: resolutions of the network. ``width``: channels of the finest. ``growth``: times as many a level on.
``attention_resolution``: levels that work at so many pixels or fewer attend to themselves; 0 for none."""
ARCHITECTURE = "generator.architecture"
_COUNT, _SIZE = (int, False, "whole numbers from 1"), (int | float, False, "numbers above 0")
NUMBERS: dict[str, tuple[Any, bool, str]] = {
    "levels": _COUNT,
    "width": _SIZE,
    "growth": _SIZE,
    "attention_resolution": (int | float, True, "numbers from 0"),
    f"{ARCHITECTURE}.patch": _COUNT,
}
"""What is computed with before a config is made of it, and so has to be numbers: their type, whether 0 is one, and in
words."""


def misfit(name: str, values: Iterable[Any]) -> str | None:
    """What a parameter needs in place of ``values``; None if they are fit to compute with."""
    if name not in NUMBERS:
        return None
    kind, zero, words = NUMBERS[name]
    numbers = all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    return None if numbers and all(value > 0 or (zero and value == 0) for value in values) else words


def resolution(base: Any, assignment: Mapping[str, Any]) -> float:
    """Pixels that the finest level works at: the image's size over the patch."""
    size, patch = (assignment.get(key, get(base, key)) for key in ("data.image_size", f"{ARCHITECTURE}.patch"))
    return float(size / patch)


def structured(base: Any, assignment: Mapping[str, Any]) -> dict[str, Any]:
    """The config's keys that structural parameters stand for: widths ``round(width growth^i)`` to multiples of 8."""
    out: dict[str, Any] = {}
    widths = assignment.get(f"{ARCHITECTURE}.widths", get(base, f"{ARCHITECTURE}.widths"))
    if {"levels", "width", "growth"} & set(assignment):
        levels, width = assignment.get("levels", len(widths)), assignment.get("width", widths[0])
        growth = assignment.get("growth", (widths[-1] / widths[0]) ** (1 / max(1, len(widths) - 1)))
        widths = [max(8, round(width * growth**level / 8) * 8) for level in range(levels)]
        out[f"{ARCHITECTURE}.widths"] = widths
    if "attention_resolution" in assignment:
        finest, most = resolution(base, assignment), assignment["attention_resolution"]
        out[f"{ARCHITECTURE}.attention"] = [finest / 2**level <= most for level in range(len(widths))]
    return out
