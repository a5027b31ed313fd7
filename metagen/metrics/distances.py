"""Distances between features, exact: the fast form loses digits where images are nearly the same."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances float64 ``[N, M]`` between features ``[N, D]`` and ``[M, D]``."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
