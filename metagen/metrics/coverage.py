"""Coverage and density: how many of the real images have a generated one near them, and how dense are those there?"""

from __future__ import annotations

import math

from torch import Tensor

from metagen.metrics.distances import distances


def coverage(generated: Tensor, real: Tensor, neighbours: int = 5) -> float:
    """Share of ``real [N, D]`` with one of ``generated [M, D]`` within reach (Naeem et al. 2020, arXiv:2002.09797,
    eq. 6). The reach of a real image is the distance to its ``neighbours``-th nearest other real image.

    0 to 1, higher is better: both lost modes and bad images lower it. Even a perfect generator stays below 1, see
    ``perfect_coverage``. Raises ``ValueError`` unless ``1 <= neighbours < N`` and there is a generated image.
    """
    return float(_within_reach(generated, real, neighbours).any(1).double().mean())


def density(generated: Tensor, real: Tensor, neighbours: int = 5) -> float:
    """In how many real images' reach a generated one lies on average, over ``neighbours`` (eq. 5 of the same).

    1 for a perfect generator in expectation; less where images are unlike any real one, more where they crowd in the
    middle of the real ones. Raises ``ValueError`` as ``coverage`` does.
    """
    return float(_within_reach(generated, real, neighbours).double().sum(0).mean()) / neighbours


def perfect_coverage(generated: int, real: int, neighbours: int = 5) -> float:
    """Expected coverage where the ``generated`` images are of the very distribution of the ``real`` ones (lemma 2)::

        1 - prod_{i=1..k} (N - i) / (M + N - i)

    since a ball stays empty where the ``k`` nearest of all other images happen to be real.
    """
    return 1 - math.prod((real - i) / (generated + real - i) for i in range(1, neighbours + 1))


def _within_reach(generated: Tensor, real: Tensor, neighbours: int) -> Tensor:
    """Which of ``generated`` lie within reach of which of ``real``: bool ``[N, M]``."""
    if not 1 <= neighbours < len(real) or not len(generated):
        raise ValueError(
            f"{neighbours} neighbours, {len(real)} real and {len(generated)} generated images: "
            "1 <= neighbours < real and at least one generated are needed"
        )
    # Sorted, each row begins with the image's distance 0 to itself.
    reach = distances(real, real).sort(1).values[:, neighbours]
    return distances(real, generated) <= reach[:, None]
