"""The importance-weighted bound on a latent-variable model's likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """``ln 1/k sum_i w_i`` over ``k`` draws: nats ``[B]`` from ``ln w_i = ln p(x | z_i) p(z_i) / q(z_i)``, ``[k, B]``.

    Burda et al. 2016, arXiv:1509.00519, eq. 8. With one draw it is the ELBO; with more it rises to ``ln p(x)``.
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))
