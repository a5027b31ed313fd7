"""Who makes new images of a class: adapted generators, and the two that every generator is seen beside.

A copycat knows nothing but the images shown and alters them a little; real images are what a perfect generator would
make. A metric on which the copycat does well does not measure generation, and none should do better than the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from metagen.errors import UserError
from metagen.evaluate import Bench, Method, generate, visible
from metagen.processes import Each, Shared
from metagen.seeding import torch_generator
from metagen.tasks.augment import AugmentConfig, altered
from metagen.tasks.episodes import sample_episode

JITTER = AugmentConfig(translate=0.06, scale=0.08, shear=0.08, elastic=0.02, stroke=0.3)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images of one class in three parts with none in common, float32 ``[n, C, H, W]`` in [-1, 1]."""

    name: str
    category: str
    """'' for none."""
    support: Tensor
    """Shown to whoever makes new ones: those of the bench's episode."""
    reference: Tensor
    """What new ones are compared with."""
    spare: Tensor
    """As many again: real images in the place of new ones."""

    @property
    def rest(self) -> Tensor:
        """All that were not shown."""
        return torch.cat([self.reference, self.spare])


def galleries(bench: Bench, count: int) -> list[Gallery]:
    """The classes of ``bench``, with ``count`` images to compare with and as many spare, or half of what there is.

    Raises ``UserError`` for a class whose images are all the same: nothing is like them or unlike them.
    """
    found = []
    for index in bench.classes:
        name = bench.images.classes[index]
        left = len(bench.images.class_images(index)) - bench.shots
        each = min(count, left // 2)
        # The same draw as the bench's episode, and on: the support is the same.
        rng = torch_generator(bench.seed, "test", name)
        episode = sample_episode(bench.images, index, bench.shots, 2 * each, rng)
        if bool((episode.query == episode.query[0]).all()):
            raise UserError(
                f"{bench.images.name}: the images of class {name!r} that are not shown are all the same, which no new "
                "image can be compared with: add others, leave the class out, or measure none with --samples 0"
            )
        reference, spare = episode.query.split(each)
        found.append(Gallery(name, bench.category(index), episode.support, reference, spare))
    return found


class Maker(Protocol):
    """Makes new images of a class."""

    def make(self, gallery: Gallery, count: int, seed: int) -> Tensor:
        """``count`` images ``[count, C, H, W]`` in [-1, 1], from the support of ``gallery`` and a seed alone."""
        ...


@dataclass(frozen=True)
class Adapted:
    """A method after a number of inner steps on the support."""

    method: Method
    steps: int

    def make(self, gallery: Gallery, count: int, seed: int) -> Tensor:
        # Images of a method that diverged are the worst there are; they do not end the comparison.
        return visible(generate(self.method, gallery.support, self.steps, count, seed, gallery.name))


@dataclass(frozen=True)
class Copycat:
    """Shown images, altered a little, in turn."""

    jitter: AugmentConfig = field(default=JITTER)

    def make(self, gallery: Gallery, count: int, seed: int) -> Tensor:
        shown = gallery.support
        return altered(
            shown[torch.arange(count) % len(shown)], self.jitter, torch_generator(seed, "copycat", gallery.name)
        )


class Real:
    """The spare real images: what is left of every distance when nothing is wrong. Looks at more than the support."""

    def make(self, gallery: Gallery, count: int, seed: int) -> Tensor:
        return gallery.spare[:count]


def made_by(maker: Maker, among: Sequence[Gallery], seed: int, each: Each = map) -> list[Tensor]:
    """For each gallery as many new images as it has reference ones."""
    return list(each(partial(_made, Shared(maker), seed), among))


def _made(maker: Shared[Maker], seed: int, gallery: Gallery) -> Tensor:
    return maker.value.make(gallery, len(gallery.reference), seed)
