"""The packaged set: icons of one concept by many designers, and characters in many fonts."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import SPLITS, Images, ImageSet, offsets_of
from metagen.tasks.pixels import fit_all

ORIGIN = (
    "split shipped with the packaged set: classes are disjoint in concept (icons) and in script "
    "(glyphs; train: Latin, valid: Cyrillic, test: Greek)"
)


def pictograms(config: DataConfig) -> ImageSet:
    """847 classes of 20 to 32 images, ink 255 on 0; see ``data/README.md`` for origin and licences."""
    file = resources.files("metagen.tasks").joinpath("data", "pictograms28.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, labels, split = arrays["images"], arrays["labels"], arrays["split"]
        names, domains = arrays["names"], arrays["domain"]
    copies = copies_across_splits(images, split[labels])
    notes = []
    if len(copies):
        images, labels = np.delete(images, copies, axis=0), np.delete(labels, copies)
        notes.append(f"{len(copies)} train and valid images were left out: the same image is in a later split")
    return ImageSet(
        name="pictograms",
        images=fit_all(images, config.image_size, config.channels),
        offsets=offsets_of(np.bincount(labels, minlength=len(names))),
        classes=tuple(names.tolist()),
        domains=tuple(domains.tolist()),
        split=split,
        split_origin=ORIGIN,
        notes=tuple(notes),
    )


def copies_across_splits(images: Images, split: NDArray[np.uint8]) -> list[int]:
    """Indices of images [N, H, W] that occur again, pixel by pixel, in a later split (train, valid, test).

    ``split`` is the split of each image, uint8 [N]. Scripts share shapes, so classes that differ by name can
    hold the same image; what is evaluated must not have been seen, so the earlier split gives its copy up.
    """
    seen: set[bytes] = set()
    copies: list[int] = []
    for code in sorted(SPLITS.values(), reverse=True):
        members = np.flatnonzero(split == code).tolist()
        pixels = [images[index].tobytes() for index in members]
        copies += [index for index, image in zip(members, pixels, strict=True) if image in seen]
        seen.update(pixels)
    return sorted(copies)
