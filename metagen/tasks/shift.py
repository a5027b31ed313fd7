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

from metagen.tasks.augment import resampled, thickened
from metagen.tasks.episodes import Episode


def shifted(episode: Episode, rng: torch.Generator) -> Episode:
    """``episode`` with one random affine map, stroke weight and softness for all its images.

    The strength of the change is random too, and mild more often than not: from next to none to a data set
    unlike any seen.
    """
    images = torch.cat([episode.support, episode.query])
    strength = _uniform(0.0, 1.0, rng) ** 2
    images = _affine(images, strength, rng)
    images = _stroke(images, strength, rng)
    images = _soften(images, strength, rng)
    support, query = torch.split(images, [len(episode.support), len(episode.query)])
    return replace(episode, support=support, query=query)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _affine(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Turn, mirror, scale, stretch and shear about the centre; what comes in from outside is background."""
    turn = strength * _uniform(-math.pi, math.pi, rng)
    scale = math.exp(strength * _uniform(-0.1, 0.4, rng))
    stretch = math.exp(strength * _uniform(-0.25, 0.25, rng))
    shear = strength * _uniform(-0.4, 0.4, rng)
    mirror = -1.0 if _uniform(0, 1, rng) < strength / 2 else 1.0
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, -sin], [sin, cos]])
    shape = torch.tensor([[mirror * scale * stretch, shear], [0.0, scale / stretch]])
    matrix = torch.cat([rotation @ shape, torch.zeros(2, 1)], dim=1).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return resampled(images, grid)


def _stroke(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Thinner or bolder strokes, by a share of one pixel of erosion or dilation."""
    return thickened(images, torch.full((1, 1, 1, 1), strength * _uniform(-0.7, 0.7, rng)))


def _soften(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Blur by a 3x3 binomial kernel, in part."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    blurred = F.conv2d(padded, kernel, groups=images.shape[1])
    return torch.lerp(images, blurred, strength * _uniform(0.0, 0.6, rng))
