"""How good generated images are: one metric a file.

Images are ``[N, C, H, W]`` in [-1, 1]. Most metrics compare features ``[N, D]`` of images, which an extractor makes:
``REGISTRY`` names those that are here, and ``package.module:Class`` one's own.
"""

from __future__ import annotations

from collections.abc import Callable

from metagen.metrics.classifier import StrokeFeatures
from metagen.metrics.extractor import Extractor
from metagen.metrics.pyramid import PyramidFeatures
from metagen.registry import find

DEFAULT = "strokes"

REGISTRY: dict[str, Callable[[], Extractor]] = {"strokes": StrokeFeatures, "pyramid": PyramidFeatures}
"""Extractors by name."""


def extractor_of(name: str = DEFAULT) -> Extractor:
    """The extractor called ``name``; raises ``UserError`` with the nearest known name."""
    made: Extractor = find("extractor", name, REGISTRY)()
    return made
