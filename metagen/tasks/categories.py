"""Categories of tasks: support sets sorted by what they look like.

K-means over embedded support sets, with as many categories as the silhouette is best at (Rousseeuw 1987). What was
found is a value in the config (``categories.found``): whoever sorts, on whatever data, sorts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metagen.errors import UserError
from metagen.seeding import seed_for, torch_generator
from metagen.tasks.config import MOST_CATEGORIES, Categories
from metagen.tasks.embedding import SIZE, embed
from metagen.tasks.episodes import sample_episode, to_float
from metagen.tasks.imageset import ImageSet, Indices

if TYPE_CHECKING:
    from metagen.config import RunConfig

SETS = 3
"""Support sets of each training class that categories are found in."""
MOST_SCORED = 2000
"""Support sets that the silhouette, which compares all with all, is taken over."""
DIGITS = 4
"""Decimals that categories are kept to: enough to sort by, and the same text from processors that round otherwise."""


NOVELTY_DEVIATION = 0.3
"""How far the root mean square of a standardised embedding differs between tasks of the packaged set, about 1."""
USUAL, MOST_NOVEL = 1.0, 3.0
"""Between which novelties policies tell tasks apart: up to the first a task looks like most of those of training, and
what differs there says nothing of the step sizes that it needs; beyond the second it does not get any newer."""
PLACE = MOST_CATEGORIES + 1
"""Numbers that a ``Place`` is as a feature."""


class Place(NamedTuple):
    """Where a task lies among those of training."""

    category: int
    novelty: float
    """How far it is from them: about 0 +- 1 for one of theirs, more for one that looks unlike any."""


class Sorter:
    """Sorts support sets into ``count`` categories, by the nearest centroid."""

    def __init__(self, found: Categories) -> None:
        if len(found.mean) != SIZE:
            raise UserError(
                f"categories.found: made for embeddings of {len(found.mean)} numbers, and they have {SIZE}: leave it "
                "out, and training finds categories again"
            )
        self.mean, self.scale = torch.tensor(found.mean), torch.tensor(found.scale)
        self.centroids = torch.tensor(found.centroids)
        self.count = len(self.centroids)

    def standardised(self, support: Tensor) -> Tensor:
        """The embedding ``[SIZE]`` of ``support [K, C, H, W]`` in the space of the centroids."""
        return (embed(support).cpu() - self.mean) / self.scale

    def category(self, support: Tensor) -> int:
        """The category of a task, whatever data set it is from."""
        return int((self.centroids - self.standardised(support)).square().sum(1).argmin())

    def place(self, support: Tensor) -> Place:
        """The category of a task, and how unlike the tasks of training it looks: its embedding, standardised by
        theirs, has a root mean square of about 1 if it is one of theirs."""
        rms = float(self.standardised(support).square().mean().sqrt())
        return Place(self.category(support), (rms - 1) / NOVELTY_DEVIATION)

    def of_classes(self, images: ImageSet, indices: Indices | Sequence[int]) -> Indices:
        """The category of each class, by all its images: int64 ``[len(indices)]``."""
        return np.array([self.category(to_float(images.class_images(int(i)))) for i in indices], dtype=np.int64)


def as_features(place: Place | None) -> Tensor:
    """``[PLACE]``: how far the novelty lies above what is usual, at most 2, and 1 at the category; all 0 where tasks
    are not sorted."""
    found = torch.zeros(PLACE)
    if place is not None:
        found[0] = min(max(place.novelty, USUAL), MOST_NOVEL) - USUAL
        found[1 + place.category] = 1
    return found


def with_found(config: RunConfig, images: ImageSet) -> RunConfig:
    """``config`` with the categories of ``images`` in it, if it asks for categories and holds none.

    Raises ``UserError`` as ``find_categories`` does.
    """
    categories = config.categories
    if not categories.most or categories.found:
        return config
    found = find_categories(images, config.episode.shots, categories.most, config.seed)
    return config.model_copy(update={"categories": categories.model_copy(update={"found": found})})


def find_categories(images: ImageSet, shots: int, most: int, seed: int) -> Categories:
    """Categories of the training classes with at least ``shots`` images; at most ``most`` of them.

    Depends on the arguments alone. Raises ``UserError`` where there are too few classes to sort.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.utils import check_random_state

    points = _embedded(images, shots, seed)
    mean, scale = points.mean(0), np.maximum(points.std(0), 1e-3)
    points = (points - mean) / scale
    distinct = len(np.unique(points.round(DIGITS), axis=0))
    if distinct < 3:
        raise UserError(f"{images.name}: {distinct} different support sets cannot be sorted: set categories.most=0")
    best: tuple[float, KMeans] | None = None
    state = seed_for(seed, "categories") % 2**32
    scored = check_random_state(state).permutation(len(points))[:MOST_SCORED]
    for k in range(2, min(most, distinct - 1) + 1):
        fitted = KMeans(k, n_init=4, random_state=state).fit(points)
        labels = fitted.labels_[scored]
        # Among very many sets those of a small category may all be left out: what it is worth is then not known.
        score = float(silhouette_score(points[scored], labels)) if len(np.unique(labels)) > 1 else -1.0
        if best is None or score > best[0]:
            best = score, fitted
    assert best is not None
    largest_first = np.argsort(-np.bincount(best[1].labels_), kind="stable")
    return Categories(
        mean=_rounded(mean),
        scale=_rounded(scale),
        centroids=tuple(_rounded(row) for row in best[1].cluster_centers_[largest_first]),
    )


def _embedded(images: ImageSet, shots: int, seed: int) -> NDArray[np.float64]:
    """``[N, SIZE]``: some support sets of each training class."""
    images.check_any("train")
    rows = []
    for index in images.members("train", shots):
        rng = torch_generator(seed, "categories", images.classes[int(index)])
        rows += [embed(sample_episode(images, int(index), shots, 0, rng).support).numpy() for _ in range(SETS)]
    if not rows:
        raise UserError(f"{images.name}: no training class has {shots} images (episode.shots): lower it or add images")
    return np.stack(rows).astype(np.float64)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)
