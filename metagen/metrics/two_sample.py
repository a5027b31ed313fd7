"""One-nearest-neighbour two-sample test: can generated images be told from real ones?"""

from __future__ import annotations

import torch
from torch import Tensor

from metagen.metrics.distances import distances


def two_sample_accuracy(generated: Tensor, real: Tensor) -> float:
    """Leave-one-out accuracy of telling ``generated [N, D]`` from ``real [N, D]`` by the nearest other image.

    (Lopez-Paz & Oquab 2017, arXiv:1610.06545; Xu et al. 2018, arXiv:1806.07755.) About 0.5 where both are of one
    distribution (``(N - 1) / (2N - 1)``, for an image's own set lacks the image), 1 where they can be told apart, less
    than 0.5 where generated images are copies of the real ones. Ties are half right. Raises ``ValueError`` unless there
    are equally many of both, and two.
    """
    count = len(generated)
    if count != len(real) or count < 2:
        raise ValueError(f"{count} generated and {len(real)} real images: equally many are needed, and two of each")
    apart = distances(both := torch.cat([generated, real]), both)
    apart.fill_diagonal_(torch.inf)
    own, other = torch.split(apart, count, dim=1)
    same = torch.cat([own[:count], other[count:]]).amin(1)
    different = torch.cat([other[:count], own[count:]]).amin(1)
    return float(((same < different).double() + 0.5 * (same == different).double()).mean())
