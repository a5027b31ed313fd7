"""Small real inputs: a tiny image set in memory, and image files on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metagen.tasks import ImageSet
from metagen.tasks.imageset import offsets_of

MakeSet = Callable[..., ImageSet]
MakeFolder = Callable[..., Path]


@pytest.fixture
def tiny_set() -> MakeSet:
    """A set whose every image differs; ``counts`` images a class, split codes in ``split``."""

    def make(counts: tuple[int, ...] = (6, 6, 3), split: tuple[int, ...] = (0, 1, 2)) -> ImageSet:
        total = sum(counts)
        images = np.random.default_rng(0).integers(0, 256, (total, 1, 8, 8), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(total)
        names = tuple(f"class{index}" for index in range(len(counts)))
        codes = np.array(split, dtype=np.uint8)
        return ImageSet("tiny", images, offsets_of(counts), names, ("",) * len(counts), codes, "made here")

    return make


@pytest.fixture
def class_folders(tmp_path: Path) -> MakeFolder:
    """Class folders of 12x12 grey PNGs: ``class_folders({'cat': 2, 'train/dog': 1})``."""

    def make(classes: dict[str, int], below: str = "images") -> Path:
        root = tmp_path / below
        root.mkdir(exist_ok=True)
        for number, (name, count) in enumerate(classes.items()):
            (root / name).mkdir(parents=True)
            for index in range(count):
                Image.new("L", (12, 12), 10 * number + index).save(root / name / f"{index}.png")
        return root

    return make
