"""Kernel inception distance: are two sets of images of one distribution?"""

from __future__ import annotations

from torch import Tensor


def kid(generated: Tensor, real: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features ``[M, D]`` and ``[N, D]``, without bias::

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j),   k(x, y) = (x.y / D + 1)^3

    (Binkowski et al. 2018, arXiv:1801.01401, section 3; Gretton et al. 2012, lemma 6). Its expectation is 0 where the
    distributions are the same, whatever the sizes of the sets, so single values can be negative; lower is better.
    Raises ``ValueError`` for fewer than two images of either.
    """
    if len(generated) < 2 or len(real) < 2:
        raise ValueError(f"{len(generated)} generated and {len(real)} real images: two of each are needed")
    x, y = generated.double(), real.double()
    return _within(x) + _within(y) - 2 * float(_kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: Tensor) -> float:
    """Mean of the kernel over pairs of two different images."""
    values = _kernel(x, x)
    return float(values.sum() - values.trace()) / (len(x) * (len(x) - 1))
