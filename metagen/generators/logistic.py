"""The discretised logistic likelihood of 8-bit pixels (Kingma et al. 2016, arXiv:1606.04934, section 6.2;
Salimans et al. 2017, arXiv:1701.05517, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = 1 / 255
"""Half of a level's width: 256 levels fill [-1 - 1/255, 1 + 1/255]."""


def log_probability(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """``ln P`` of each pixel's level, a logistic rounded to 256 levels; all tensors ``[B, C, H, W]``.

    A pixel of ``images`` in [-1, 1] counts as the level nearest to it. With ``a, b`` the standardised upper and
    lower edge of the level and ``s`` the logistic function, ``P = s(a) - s(b) = s(a) s(-b) (1 - exp(b - a))``,
    which loses no digits. The lowest level reaches down to minus infinity and the highest up to infinity, so that
    the probabilities of the 256 levels sum to 1.
    """
    level = ((images + 1) * 127.5).round()
    centred, rate = level / 127.5 - 1 - location, (-log_scale).exp()
    below = F.logsigmoid((centred + HALF) * rate)  # ln P(level or less)
    above = F.logsigmoid((HALF - centred) * rate)  # ln P(level or more)
    between = below + above + torch.log(-torch.expm1(-2 * HALF * rate))
    return torch.where(level <= 0, below, torch.where(level >= 255, above, between))
