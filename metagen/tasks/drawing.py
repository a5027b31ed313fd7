"""Training episodes: which classes a piece of work draws, and how their images are altered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metagen.records import WorkItem
from metagen.seeding import torch_generator
from metagen.tasks.augment import AugmentConfig, augmented
from metagen.tasks.categories import Sorter
from metagen.tasks.episodes import Episode, sample_classes, sample_episode
from metagen.tasks.imageset import ImageSet
from metagen.tasks.interpolate import interpolated
from metagen.tasks.shift import shifted


@dataclass(frozen=True)
class Drawing:
    """How a phase draws its episodes."""

    images: ImageSet
    shots: int
    queries: int
    interpolate: float
    """Share of episodes that lie between two classes."""
    shift: float
    """Share of episodes whose images are altered as one."""
    augment: AugmentConfig
    weights: NDArray[np.float64] | None
    """float64 [classes]: how often each is drawn; None for all alike."""

    def episodes(self, item: WorkItem) -> list[Episode]:
        """The episodes of ``item``. Depends on the item alone; what is switched off draws nothing."""
        rng = torch_generator(item.seed, "classes", item.step, item.index)
        classes = self._classes(item.tasks, rng)
        return [self._episode(item, slot, index) for slot, index in enumerate(classes)]

    def _classes(self, count: int, rng: torch.Generator) -> list[int]:
        return sample_classes(self.images, "train", count, self.shots + self.queries, rng, self.weights)

    def _episode(self, item: WorkItem, slot: int, index: int) -> Episode:
        names = item.step, item.index, slot
        rng = torch_generator(item.seed, "episode", *names)
        episode = sample_episode(self.images, index, self.shots, self.queries, rng)
        if self.interpolate:
            between = torch_generator(item.seed, "interpolate", *names)
            if float(torch.rand((), generator=between)) < self.interpolate:
                [partner] = self._classes(1, between)
                other = sample_episode(self.images, partner, self.shots, self.queries, between)
                episode = interpolated(episode, other, between)
        if self.shift and float(torch.rand((), generator=rng)) < self.shift:
            episode = shifted(episode, rng)
        if self.augment.on:
            episode = augmented(episode, self.augment, torch_generator(item.seed, "augment", *names))
        return episode


def class_weights(images: ImageSet, sorter: Sorter | None, balance: float, at_least: int) -> NDArray[np.float64] | None:
    """How often each training class of ``at_least`` images is drawn, ``[classes]``; None for all alike.

    Within a category classes keep their ``images.weights``. A category whose classes have the sum ``W`` of weights
    is drawn as often as ``W ** (1 - balance)`` says: at 1 all categories alike.
    """
    if not balance or sorter is None:
        return images.weights
    weights = np.ones(len(images.classes)) if images.weights is None else images.weights.copy()
    members = images.members("train", at_least)
    categories = sorter.of_classes(images, members)
    sums = np.bincount(categories, weights[members], minlength=sorter.count)
    weights[members] *= sums[categories] ** -balance
    return weights
