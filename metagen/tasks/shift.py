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

from metagen.tasks.augment import dilated, eroded, resampled, thickened
from metagen.tasks.episodes import Episode


def shifted(episode: Episode, rng: torch.Generator) -> Episode:
    """``episode`` with all its images turned, mirrored, stretched, drawn smaller and in other strokes, as one.

    Each change is of random strength, from next to none to as much as tells one set of drawings from another; none
    makes a task as strange as noise or a close-up would, which teaches steps that no other drawings need.
    """
    images = torch.cat([episode.support, episode.query])
    images = _affine(images, _uniform(0.0, 0.3, rng), math.exp(_uniform(0.0, 0.5, rng)), rng)
    support, query = torch.split(_redrawn(images, rng), [len(episode.support), len(episode.query)])
    return replace(episode, support=support, query=query)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _affine(images: Tensor, strength: float, smaller: float, rng: torch.Generator) -> Tensor:
    """Turn, mirror, scale, stretch and shear about the centre by a ``strength`` in [0, 1], and draw ``smaller`` times
    smaller; what comes in from outside is background."""
    turn = strength * _uniform(-math.pi, math.pi, rng)
    scale = smaller * math.exp(strength * _uniform(-0.1, 0.5, rng))
    stretch = math.exp(strength * _uniform(-0.25, 0.25, rng))
    shear = strength * _uniform(-0.4, 0.4, rng)
    mirror = -1.0 if _uniform(0, 1, rng) < strength / 2 else 1.0
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, -sin], [sin, cos]])
    shape = torch.tensor([[mirror * scale * stretch, shear], [0.0, scale / stretch]])
    matrix = torch.cat([rotation @ shape, torch.zeros(2, 1)], dim=1).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return resampled(images, grid)


def _redrawn(images: Tensor, rng: torch.Generator) -> Tensor:
    """In other strokes: outlines alone, skeletons, thinner or bolder ones, or as they are."""
    kind, much = _uniform(0, 1, rng), _uniform(0, 1, rng)
    if kind < 0.3:
        return torch.lerp(images, _outlines(images), 0.5 + 0.5 * much)
    if kind < 0.6:
        return _skeletons(images)
    if kind < 0.8:
        return thickened(images, torch.full((1, 1, 1, 1), 1.4 * much - 0.7))
    return images


def _outlines(images: Tensor) -> Tensor:
    """What an erosion takes away: the rim of every shape, one pixel wide."""
    return images - eroded(images) - 1


def _skeletons(images: Tensor) -> Tensor:
    """What openings take away, one erosion after the other (Lantuejoul 1980): the middle lines of all shapes."""
    found = torch.full_like(images, -1.0)
    for _ in range(min(images.shape[-2:]) // 4):
        smaller = eroded(images)
        found = torch.maximum(found, images - dilated(smaller) - 1)
        images = smaller
    return found
