"""The games of the gan family: what the critic minimises, and which way it pulls the generator.

Each game takes scores of real and generated images in pairs and gives the simultaneous field of both players
at once. The critic's loss is an ordinary differentiable value. The generator's loss reaches its images through
the critic alone, so its slope there is all that the generator needs to know: the critic's own gradient in the
generated images, times the slope of the loss in the score. The critic's weights take no part in it, and no
second pass through the critic is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Scores = Callable[[Tensor], Tensor]
"""Images ``[B, C, H, W]`` to scores ``[B]``, higher for what looks real."""


class Play(NamedTuple):
    """The two players' first-order information, an entry a pair."""

    critic: Tensor
    """The critic's loss ``[B]``, penalty included; differentiable in the critic's weights."""
    pull: Tensor
    """Slope ``[B, C, H, W]`` of the generator's loss in the generated images; a constant."""


def pairing(scores: Scores, real: Tensor, made: Tensor, penalty: float) -> Play:
    """The relativistic pairing loss with zero-centred penalties R1 and R2 (R3GAN: Huang et al. 2024,
    arXiv:2501.05441, section 2), for the critic ``D``, a real image ``x`` and a generated one ``y``::

        critic:     softplus(D(y) - D(x)) + penalty / 2 (|grad_x D(x)|^2 + |grad_y D(y)|^2)
        generator:  softplus(D(x) - D(y))

    Without a penalty nothing is differentiated twice.
    """
    made = made.detach().requires_grad_()
    real = real.detach().requires_grad_(penalty > 0)
    lead = scores(real) - scores(made)
    at = (made, real) if penalty else (made,)
    slopes = torch.autograd.grad(lead.sum(), at, retain_graph=True, create_graph=penalty > 0)
    # d softplus(lead) / dy = sigmoid(lead) d lead / dy
    pull = lead.detach().sigmoid()[:, None, None, None] * slopes[0].detach()
    critic = F.softplus(-lead)
    if penalty:
        steep = torch.stack([slope.square().sum((1, 2, 3)) for slope in slopes]).sum(0)
        critic = critic + 0.5 * penalty * steep
    return Play(critic, pull)


def wasserstein(scores: Scores, real: Tensor, made: Tensor, mix: Tensor, penalty: float) -> Play:
    """Wasserstein's loss with the gradient penalty (WGAN-GP: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1),
    the norm being over all pixels and channels of one image, ``mix [B]`` in [0, 1] drawn for each::

        critic:     D(y) - D(x) + penalty (|grad_u D(u)| - 1)^2,   u = mix x + (1 - mix) y
        generator:  -D(y)

    Without a penalty nothing is differentiated twice.
    """
    real, made = real.detach(), made.detach().requires_grad_()
    lead = scores(real) - scores(made)
    (pull,) = torch.autograd.grad(lead.sum(), made, retain_graph=True)
    if not penalty:
        return Play(-lead, pull)
    at = mix[:, None, None, None]
    between = (at * real + (1 - at) * made.detach()).requires_grad_()
    (steep,) = torch.autograd.grad(scores(between).sum(), between, create_graph=True)
    # The floor keeps the norm's slope finite where the critic is flat.
    norm = steep.square().sum((1, 2, 3)).clamp_min(1e-12).sqrt()
    return Play(-lead + penalty * (norm - 1).square(), pull)
