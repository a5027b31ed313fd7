"""Shifted episodes: every image of a task altered in the same way, so that the task looks like another data set.

A policy that has only met tasks of its own data set learns that small steps suit everything. These are the
tasks on which it can learn when larger ones pay (Rajendran et al. 2020, arXiv:2007.05549, call such changes
that apply to a whole task meta-augmentation).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metagen.tasks.episodes import Episode


def shifted(episode: Episode, rng: torch.Generator) -> Episode:
    """``episode`` with one random affine map, stroke weight, softness and contrast for all its images."""
    images = torch.cat([episode.support, episode.query])
    images = _affine(images, rng)
    images = _stroke(images, rng)
    images = _soften(images, rng)
    images = _contrast(images, rng)
    support, query = images.split([len(episode.support), len(episode.query)])
    return replace(episode, support=support, query=query)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _happens(chance: float, rng: torch.Generator) -> bool:
    return float(torch.rand((), generator=rng)) < chance


def _affine(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turn, mirror, scale, stretch and shear about the centre; what comes in from outside is background."""
    turn = _uniform(-math.pi, math.pi, rng) if _happens(0.5, rng) else _uniform(-0.2, 0.2, rng)
    scale, stretch = math.exp(_uniform(-0.1, 0.45, rng)), math.exp(_uniform(-0.25, 0.25, rng))
    shear, mirror = _uniform(-0.3, 0.3, rng), -1.0 if _happens(0.5, rng) else 1.0
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, -sin], [sin, cos]])
    shape = torch.tensor([[mirror * scale * stretch, shear], [0.0, scale / stretch]])
    matrix = torch.cat([rotation @ shape, torch.zeros(2, 1)], dim=1).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    # Pixels are shifted by +1 so that the zeros which grid_sample pads with are background (-1).
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def _stroke(images: Tensor, rng: torch.Generator) -> Tensor:
    """Thinner or bolder strokes, by a share of one pixel of erosion or dilation."""
    share = _uniform(-1.0, 1.0, rng)
    bold = F.max_pool2d(images, 3, stride=1, padding=1)
    thin = -F.max_pool2d(-images, 3, stride=1, padding=1)
    return torch.lerp(images, bold if share > 0 else thin, abs(share) * 0.8)


def _soften(images: Tensor, rng: torch.Generator) -> Tensor:
    """Blur by a 3x3 binomial kernel, in part."""
    if not _happens(0.3, rng):
        return images
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return torch.lerp(images, F.conv2d(padded, kernel, groups=images.shape[1]), _uniform(0.0, 1.0, rng))


def _contrast(images: Tensor, rng: torch.Generator) -> Tensor:
    """Ink and paper swapped now and then, and not always full black and white."""
    if _happens(0.1, rng):
        images = -images
    return images * _uniform(0.8, 1.0, rng) if _happens(0.3, rng) else images
