"""The energy score: how well a sample of generated images foretells an image that was held out."""

from __future__ import annotations

import torch
from torch import Tensor

from metagen.metrics.pyramid import pyramid


def energy_score(images: Tensor, generated: Tensor) -> Tensor:
    """One score an image ``[B]``, lower is better: ``images [B, C, H, W]``, ``generated [B, S, C, H, W]``, S >= 2::

        mean_i |f(x) - f(y_i)|  -  1/2 mean_{i != j} |f(y_i) - f(y_j)|

    with ``f`` the pyramid of means and Euclidean distances. Its expectation over ``x`` is least where the
    ``y`` are distributed as the ``x`` are, and there alone: it is strictly proper (Gneiting & Raftery 2007,
    doi:10.1198/016214506000001437, section 4.3). It exceeds that least value by half of the energy distance
    (Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018). Both means are without bias. Differentiable.
    """
    count = generated.shape[1]
    x, y = pyramid(images), pyramid(generated.flatten(0, 1)).unflatten(0, (-1, count))
    first, second = torch.triu_indices(count, count, offset=1, device=y.device)
    return _distance(x[:, None], y).mean(1) - 0.5 * _distance(y[:, first], y[:, second]).mean(1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    # The floor keeps the root's slope finite where two images are the same.
    return (a - b).square().sum(-1).clamp_min(1e-10).sqrt()
