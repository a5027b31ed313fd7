"""Augmentation: every image of an episode altered a little and by itself, so that few images go further.

Unlike a shift (``shift.py``), which alters a task as one and makes it another task, this leaves the task what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metagen.strict import Strict
from metagen.tasks.episodes import Episode

KNOTS = 4
"""Random displacements across and down that an elastic deformation is interpolated from."""


class AugmentConfig(Strict):
    """Largest alterations; 0 switches one off."""

    translate: float = Field(0.0, ge=0, le=0.5)
    """Across and down, as a share of the side."""
    scale: float = Field(0.0, ge=0, le=1)
    """Larger or smaller, in nats: 0.1 is about 10%."""
    shear: float = Field(0.0, ge=0, le=1)
    """Tangent of the angle by which what was upright leans."""
    elastic: float = Field(0.0, ge=0, le=0.5)
    """Displacement of a smooth random field, as a share of the side (Simard et al. 2003)."""
    stroke: float = Field(0.0, ge=0, le=1)
    """Thicker or thinner strokes, in pixels on either side."""

    @property
    def on(self) -> bool:
        """Whether anything is altered."""
        return any(self.model_dump().values())


def augmented(episode: Episode, config: AugmentConfig, rng: torch.Generator) -> Episode:
    """``episode`` with every support and query image altered by itself, each amount uniform up to the largest."""
    images = altered(torch.cat([episode.support, episode.query]), config, rng)
    support, query = torch.split(images, [len(episode.support), len(episode.query)])
    return replace(episode, support=support, query=query)


def altered(images: Tensor, config: AugmentConfig, rng: torch.Generator) -> Tensor:
    """``images [N, C, H, W]``, each altered by itself, each amount uniform up to the largest of ``config``."""
    return altered_by(images, amounts(len(images), config, rng))


def amounts(count: int, config: AugmentConfig, rng: torch.Generator) -> dict[str, Tensor]:
    """How far ``count`` images are altered, by name, ``[count, ...]`` each."""

    def uniform(largest: float, *shape: int) -> Tensor:  # drawn even if 0: switching one changes no other
        return largest * (2 * torch.rand(count, *shape, generator=rng) - 1)

    return {
        "zoom": uniform(config.scale).exp(),
        "lean": uniform(config.shear),
        "move": uniform(2 * config.translate, 2),
        "elastic": uniform(2 * config.elastic, 2, KNOTS, KNOTS),
        "stroke": uniform(config.stroke),
    }


def altered_by(images: Tensor, by: Mapping[str, Tensor]) -> Tensor:
    """``images [N, C, H, W]``, altered by ``amounts``; differentiable in the images once."""
    zoom, lean, move, field, stroke = (by[name].to(images) for name in ("zoom", "lean", "move", "elastic", "stroke"))
    matrices = torch.stack(
        [torch.stack([zoom, lean, move[:, 0]], dim=1), torch.stack([0 * zoom, zoom, move[:, 1]], dim=1)], dim=1
    )
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)  # [N, H, W, 2], sides of length 2
    smooth = F.interpolate(field, size=images.shape[-2:], mode="bicubic", align_corners=True)
    return thickened(resampled(images, grid + smooth.permute(0, 2, 3, 1)), stroke[:, None, None, None])


def resampled(images: Tensor, grid: Tensor) -> Tensor:
    """``images [N, C, H, W]`` at the points ``grid [N, H, W, 2]`` in [-1, 1]; background outside."""
    # Pixels are shifted by +1 so that the zeros which grid_sample pads with are background (-1).
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def translated(images: Tensor, by: Tensor, ground: Tensor | float = -1.0) -> Tensor:
    """``images [N, C, H, W]``, each moved ``by [N, 2]`` whole pixels down and to the right.

    What comes in is ``ground``, background unless it is given; ``[N, C, 1, 1]`` for a colour an image.
    """
    if not by.any():
        return images
    (rows, vertically), (columns, across) = (_sources(n, by[:, i]) for i, n in enumerate(images.shape[-2:]))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    found = images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    inside = (vertically[:, :, None] & across[:, None, :])[:, None]
    return torch.where(inside, found, ground)


def _sources(length: int, by: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``length`` lines each comes from where they move ``by [N]``, ``[N, length]``; whether it is one of
    them."""
    lines = torch.arange(length, device=by.device) - by[:, None]
    return lines.clamp(0, length - 1), (lines >= 0) & (lines < length)


def thickened(images: Tensor, share: Tensor) -> Tensor:
    """Bolder (above 0) or thinner strokes, by a ``share [N or 1, 1, 1, 1]`` of one pixel of dilation or erosion."""
    return torch.lerp(images, torch.where(share > 0, dilated(images), eroded(images)), share.abs())


def dilated(images: Tensor) -> Tensor:
    """The brightest of each pixel and its eight neighbours: bolder strokes, by one pixel on either side."""
    return F.max_pool2d(images, 3, stride=1, padding=1)


def eroded(images: Tensor) -> Tensor:
    """The darkest of each pixel and its eight neighbours: thinner strokes, by one pixel on either side."""
    return -F.max_pool2d(-images, 3, stride=1, padding=1)
