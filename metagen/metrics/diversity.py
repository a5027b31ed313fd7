"""Diversity: do generated images differ from each other as much as real ones do?"""

from __future__ import annotations

import torch
from torch import Tensor


def diversity(generated: Tensor, real: Tensor) -> float:
    """Mean distance between two of ``generated [M, D]`` over that between two of ``real [N, D]``::

        mean_{i != j} |y_i - y_j|  /  mean_{i != j} |x_i - x_j|

    0 where all generated images are one (mode collapse), 1 where they vary as the real ones do. It says nothing of what
    they show: read it beside ``coverage``. Raises ``ValueError`` for fewer than two images of either, or for real ones
    that are all the same.
    """
    if len(generated) < 2 or len(real) < 2:
        raise ValueError(f"{len(generated)} generated and {len(real)} real images: two of each are needed")
    spread = _spread(real)
    if not spread:
        raise ValueError("the real images are all the same: nothing to compare the spread with")
    return _spread(generated) / spread


def _spread(features: Tensor) -> float:
    return float(torch.pdist(features.double()).mean())
