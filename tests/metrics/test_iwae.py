from __future__ import annotations

import math

import torch

from metagen.metrics.iwae import importance_weighted_bound
from metagen.seeding import torch_generator


def test_with_one_draw_it_is_the_weight_itself() -> None:
    weights = torch.tensor([[-3.0, 2.0]])
    assert torch.equal(importance_weighted_bound(weights), weights[0])


def test_of_a_normal_model_it_rises_from_the_elbo_to_the_exact_likelihood() -> None:
    """``z ~ N(0, 1), x | z ~ N(z, 1)``, so ``x ~ N(0, 2)``; ``q(z | x)`` is the prior, and so a poor one."""
    x, draws = 1.3, torch.randn(200_000, generator=torch_generator("iwae")).double()
    log_likelihood = -0.5 * (x - draws) ** 2 - 0.5 * math.log(2 * math.pi)
    exact = -(x**2) / 4 - 0.5 * math.log(4 * math.pi)
    elbo = -0.5 * (x**2 + 1) - 0.5 * math.log(2 * math.pi)
    bounds = [float(importance_weighted_bound(log_likelihood.view(k, -1)).mean()) for k in (1, 4, 50, 200_000)]
    assert bounds == sorted(bounds)
    assert abs(bounds[0] - elbo) < 0.02
    assert abs(bounds[-1] - exact) < 0.01


def test_large_weights_do_not_overflow() -> None:
    assert float(importance_weighted_bound(torch.full((3, 1), 2000.0))) == 2000
