from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metagen.metrics.energy import energy_score
from metagen.metrics.pyramid import pyramid
from metagen.seeding import torch_generator


def _flat(values: Tensor) -> Tensor:
    """Images of one value each: their features are as far apart as the values."""
    return values[..., None, None, None].expand(*values.shape, 1, 8, 8).clone()


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_generator("metrics"))


def test_the_distance_is_the_root_mean_over_levels_of_the_mean_squared_difference() -> None:
    one, other = (torch.rand(3, 2, 8, 8, generator=torch_generator(n)) for n in "ab")
    levels = [(one - other).unflatten(2, (8 // b, b)).unflatten(4, (8 // b, b)).mean((3, 5)) for b in (1, 2, 4)]
    expected = torch.stack([level.square().mean((1, 2, 3)) for level in levels]).mean(0).sqrt()
    assert torch.allclose((pyramid(one) - pyramid(other)).norm(dim=1), expected)
    assert float((pyramid(_flat(torch.ones(1))) - pyramid(_flat(-torch.ones(1)))).norm()) == pytest.approx(2)


def test_different_images_have_different_features() -> None:
    checks = torch.ones(1, 1, 8, 8)
    checks[..., ::2, 1::2] = checks[..., 1::2, ::2] = -1  # no coarser level sees them
    assert float((pyramid(checks) - pyramid(-checks)).norm()) == pytest.approx(2 / math.sqrt(3))


@pytest.mark.parametrize("x", [0.0, 0.7, -2.0])
def test_on_a_normal_distribution_the_score_is_the_closed_form(x: float) -> None:
    """``x (2 Phi(x) - 1) + 2 phi(x) - 1 / sqrt(pi)`` (Gneiting & Raftery 2007, section 4.2)."""
    score = float(energy_score(_flat(torch.tensor([x])), _flat(_normal(1, 600)))[0])
    at = torch.tensor(x, dtype=torch.float64)
    exact = x * (2 * torch.special.ndtr(at) - 1) + 2 * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    assert score == pytest.approx(float(exact) - 1 / math.sqrt(math.pi), abs=0.08)


def test_the_score_is_best_for_the_very_distribution_of_the_images() -> None:
    images, made = _flat(_normal(3000)), _normal(6000).view(3000, 2)
    right = float(energy_score(images, _flat(made)).mean())
    for wrong in (made * 0, made * 0.5, made * 2, made + 0.5):
        assert float(energy_score(images, _flat(wrong)).mean()) > right + 0.01


def test_the_gradient_is_finite_where_images_are_the_same() -> None:
    made = torch.zeros(2, 3, 1, 8, 8, requires_grad=True)
    energy_score(torch.zeros(2, 1, 8, 8), made).sum().backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()
