"""Memorisation: does a generator give back the images that it was shown?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metagen.metrics.distances import distances

QUANTILE = 0.05


def memorised_share(generated: Tensor, support: Tensor, real: Tensor) -> float:
    """Share of ``generated [M, D]`` closer to one of ``support [K, D]`` than nearly any two real images are.

    Nearly any: the 5th percentile of the distances between two of ``real [N, D]``. The right value is not 0 but that
    of real images that were not shown, which are now and then as close: more is copying. Raises ``ValueError`` for
    fewer than two real images, or none of the others.
    """
    if len(real) < 2 or not len(generated) or not len(support):
        raise ValueError(
            f"{len(generated)} generated, {len(support)} support and {len(real)} real images: two real ones and one of "
            "each of the others are needed"
        )
    apart = distances(real, real)
    pairs = apart[torch.ones(apart.shape, dtype=torch.bool).triu(1)]
    nearest = distances(generated, support).amin(1)
    # numpy's: torch's takes no more pairs than some 5800 images have.
    near = float(np.quantile(pairs.numpy(), QUANTILE))
    return float((nearest < near).double().mean())
