"""Episodes: a few support images to adapt to and query images of the same class to be judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metagen.errors import UserError
from metagen.tasks.imageset import Images, ImageSet


@dataclass(frozen=True, eq=False)
class Episode:
    """One few-shot task: K support and M query images of one class, with no image in both."""

    support: Tensor
    """float32 [K, C, H, W] in [-1, 1]."""
    query: Tensor
    """float32 [M, C, H, W] in [-1, 1]."""
    class_name: str
    index: int
    """The class's index in its ``ImageSet``."""


def sample_episode(images: ImageSet, class_index: int, shots: int, queries: int, generator: torch.Generator) -> Episode:
    """Draw ``shots`` support and ``queries`` query images of a class, without replacement, in random order.

    Raises ``UserError`` if the class has fewer than ``shots + queries`` images.
    """
    if shots < 1 or queries < 0:
        raise UserError(f"shots {shots}, queries {queries}: an episode needs at least 1 shot and 0 queries")
    members = images.class_images(class_index)
    name = images.classes[class_index]
    if len(members) < shots + queries:
        raise UserError(
            f"class {name!r} has {len(members)} images, fewer than {shots} shots + {queries} queries: "
            "lower them or add images"
        )
    drawn = torch.randperm(len(members), generator=generator)[: shots + queries].numpy()
    pictures = to_float(members[drawn])
    return Episode(pictures[:shots], pictures[shots:], name, class_index)


def sample_classes(
    images: ImageSet,
    split: str,
    count: int,
    at_least: int,
    generator: torch.Generator,
    weights: NDArray[np.float64] | None = None,
) -> list[int]:
    """Draw ``count`` classes of ``split`` that have ``at_least`` images.

    Without replacement if there are as many, otherwise with; and always with if there are ``weights [classes]``, so
    that each class is drawn as often as they say. Raises ``UserError`` if there is none.
    """
    members = images.members(split, at_least)
    if not len(members):
        inside = images.members(split, 0)
        if not len(inside):
            raise UserError(f"{images.name}: no classes in split '{split}' ({images.split_origin}): add classes to it")
        raise UserError(
            f"{images.name}: no class in split '{split}' has {at_least} images (shots + queries); the largest has "
            f"{images.counts[inside].max()}: lower shots or queries, or add images"
        )
    if weights is not None:
        shares = torch.from_numpy(weights[members])
        drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
    elif count <= len(members):
        drawn = torch.randperm(len(members), generator=generator)[:count]
    else:
        drawn = torch.randint(len(members), (count,), generator=generator)
    return [int(index) for index in members[drawn.numpy()]]


def to_float(images: Images) -> Tensor:
    """``x / 127.5 - 1``: uint8 0..255 to float32 in [-1, 1], same shape, in new memory."""
    return torch.from_numpy(images.astype(np.float32)).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Images:
    """``round((x + 1) * 127.5)``, clamped to 0..255: the inverse of ``to_float``, from any device or dtype.

    Raises ``ValueError`` if there are NaNs, which no pixel stands for.
    """
    levels = images.detach().to("cpu", torch.float32).add(1).mul(127.5)
    if levels.isnan().any():
        raise ValueError("images have NaNs")
    pixels: Images = levels.round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels
