"""Several data sets as one, weighted: cross-task learning over their classes.

The temperature is that of multilingual training (Arivazhagan et al. 2019, arXiv:1907.05019, section 4.1).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metagen import tasks
from metagen.errors import UserError
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import ImageSet, offsets_of
from metagen.tasks.pictograms import copies_across_splits


def mixture(config: DataConfig) -> ImageSet:
    """The classes of all parts, called ``part/class``, each in the split that its part gives it.

    A class of part ``d``, which has ``n_d`` training classes, is drawn for training as often as
    ``weight_d * n_d ** (1 / temperature) / n_d`` says. An image that a later split of any part holds as well is left
    out of the earlier one. Raises ``UserError`` for a part that cannot be loaded or two of one name.
    """
    sets = []
    for number, part in enumerate(config.parts):
        try:
            loaded = tasks.load(config.of_part(part))
        except UserError as error:
            raise UserError(f"data.parts.{number}: {error}") from None
        sets.append(replace(loaded, name=part.name or loaded.name))
    names = [part.name for part in sets]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"data.parts: two are called {twice!r}: give one a name of its own with its key 'name'")
    sets, notes = _without_copies(sets)
    weights = []
    for part, loaded in zip(config.parts, sets, strict=True):
        count = max(1, len(loaded.members("train")))
        weights.append(np.full(len(loaded.classes), part.weight * count ** (1 / config.temperature - 1)))
    return ImageSet(
        name="+".join(names),
        images=np.concatenate([part.images for part in sets]),
        offsets=offsets_of(np.concatenate([part.counts for part in sets])),
        classes=tuple(f"{part.name}/{name}" for part in sets for name in part.classes),
        domains=tuple(f"{part.name} {domain}".strip() for part in sets for domain in part.domains),
        split=np.concatenate([part.split for part in sets]),
        split_origin="; ".join(f"{part.name}: {part.split_origin}" for part in sets),
        inverted=all(part.inverted for part in sets),
        notes=(*(f"{part.name}: {note}" for part in sets for note in part.notes), *notes),
        weights=np.concatenate(weights),
    )


def _without_copies(sets: list[ImageSet]) -> tuple[list[ImageSet], tuple[str, ...]]:
    """``sets`` without training and validation images that occur again in a later split of any of them."""
    images = np.concatenate([part.images for part in sets])
    copies = copies_across_splits(images, np.concatenate([part.split.repeat(part.counts) for part in sets]))
    if not copies:
        return sets, ()
    kept = np.ones(len(images), dtype=bool)
    kept[copies] = False
    out, start = [], 0
    for part in sets:
        mine = kept[start : start + len(part.images)]
        before = np.concatenate([[0], mine.cumsum()])
        out.append(replace(part, images=np.ascontiguousarray(part.images[mine]), offsets=before[part.offsets]))
        start += len(mine)
    return out, (f"{len(copies)} train and valid images were left out: the same image is in a later split",)
