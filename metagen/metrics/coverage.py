"""Coverage: how many of the real images have a generated one near them?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metagen.metrics.pyramid import pyramid


def coverage(generated: Tensor, real: Tensor, neighbours: int = 5) -> float:
    """Share of ``real [N, C, H, W]`` with one of ``generated [M, C, H, W]`` within reach (Naeem et al. 2020,
    arXiv:2002.09797, eq. 6). The reach of a real image is the distance to its ``neighbours``-th nearest other real
    image, here in the pyramid of means.

    0 to 1, higher is better: both lost modes and bad images lower it. Even a perfect generator stays below 1, see
    ``perfect_coverage``. Raises ``ValueError`` unless ``1 <= neighbours < N`` and there is a generated image.
    """
    if not 1 <= neighbours < len(real) or not len(generated):
        raise ValueError(
            f"{neighbours} neighbours, {len(real)} real and {len(generated)} generated images: "
            "1 <= neighbours < real and at least one generated are needed"
        )
    x, y = pyramid(real).double(), pyramid(generated).double()
    # Sorted, each row begins with the image's distance 0 to itself.
    reach = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, neighbours]
    nearest = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    return float((nearest <= reach).double().mean())


def perfect_coverage(generated: int, real: int, neighbours: int = 5) -> float:
    """Expected coverage where the ``generated`` images are of the very distribution of the ``real`` ones (lemma 2)::

        1 - prod_{i=1..k} (N - i) / (M + N - i)

    since a ball stays empty where the ``k`` nearest of all other images happen to be real.
    """
    return 1 - math.prod((real - i) / (generated + real - i) for i in range(1, neighbours + 1))
