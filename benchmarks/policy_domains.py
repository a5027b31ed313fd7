"""The three data sets that policies are judged on: which classes they are tuned on, which they are tested on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metagen import tasks
from metagen.evaluate import Bench, choose_classes
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import SPLITS, ImageSet, ranked_by_hash

SHOTS, BENCH_SEED = 5, 0
NEAR = 0.95
"""Correlation of two pictures at half their size from which on they count as the same."""


def domains(omniglot: Path, icons: Path) -> dict[str, ImageSet]:
    """Pictograms, Omniglot, and what of ``icons`` (icons2016.npz) has nothing to do with the training split."""
    own = tasks.load(DataConfig())
    return {
        "pictograms": own,
        "omniglot": tasks.load(DataConfig(source="omniglot", path=str(omniglot))),
        "icons": unrelated(tasks.load(DataConfig(source="npz", path=str(icons))), own),
    }


def bench(images: ImageSet, split: str, count: int) -> Bench:
    """The same classes and images for every seed of training."""
    return Bench(images, choose_classes(images, split, SHOTS, count, BENCH_SEED)[0], SHOTS, BENCH_SEED)


def unrelated(icons: ImageSet, trained: ImageSet) -> ImageSet:
    """``icons`` where a class is for testing or tuning only if it shares no concept word, and no picture nearly the
    same, with the training classes of ``trained``: then half of them, by a hash of the name, are tuned on ("valid")
    and half tested on ("test"). All others are "train", which nothing here reads."""
    words = set().union(*(_words(trained.classes[i]) for i in trained.members("train")))
    free = [i for i, name in enumerate(icons.classes) if not _words(name) & words]
    seen = _flat(np.concatenate([trained.class_images(int(i)) for i in trained.members("train")]))
    split = np.full(len(icons.classes), SPLITS["train"], dtype=np.uint8)
    for place, name in enumerate(ranked_by_hash(icons.classes[i] for i in free)):
        index = icons.index_of(name)
        if (_flat(icons.class_images(index)) @ seen.T).max() < NEAR:
            split[index] = SPLITS["valid"] if place % 2 else SPLITS["test"]
    origin = "no concept word and no near-identical picture in common with the training split of pictograms"
    return replace(icons, split=split, split_origin=origin)


def _words(name: str) -> set[str]:
    """The words of a class's name, plurals as singulars."""
    return {word.removesuffix("s") for word in re.split(r"[^a-z]+", name.lower().split("/")[-1]) if len(word) > 1}


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures ``[N, 1, 28, 28]`` at half their size as rows of mean 0 and norm 1."""
    small = images.astype(np.float32).reshape(len(images), 14, 2, 14, 2).mean((2, 4)).reshape(len(images), -1)
    small -= small.mean(1, keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
