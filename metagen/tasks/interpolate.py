"""Interpolated episodes: a task between two, so that few classes make many tasks (Yao et al. 2022, arXiv:2106.02695,
with images in place of hidden features)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metagen.tasks.episodes import Episode


def interpolated(one: Episode, other: Episode, rng: torch.Generator) -> Episode:
    """``share * one + (1 - share) * other``, image by image; the share, of the whole task, is uniform in [0.5, 1].

    Both episodes must have as many support and query images. The task counts as one of ``one``'s class.
    """
    share = 0.5 + 0.5 * float(torch.rand((), generator=rng))

    def between(mine: Tensor, others: Tensor) -> Tensor:
        return torch.lerp(others, mine, share)

    return replace(one, support=between(one.support, other.support), query=between(one.query, other.query))
