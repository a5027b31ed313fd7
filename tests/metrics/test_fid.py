from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from metagen.metrics.fid import Moments, fid
from metagen.seeding import torch_generator


def _features(name: str, count: int = 500, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch_generator(name)).double()


def _moments(mean: Tensor, covariance: Tensor, count: int = 10) -> Moments:
    return Moments(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))


def test_the_moments_are_those_of_numpy_and_add_up() -> None:
    x = _features("x")
    both = Moments.of(x[:123]) + Moments.of(x[123:])
    for found in (Moments.of(x), both):
        assert torch.allclose(found.mean, x.mean(0))
        assert torch.allclose(found.covariance, torch.cov(x.T))


@pytest.mark.parametrize("mix", [0.0, 0.7])
def test_it_is_that_of_torchmetrics(mix: float) -> None:
    made = _features("made") @ (torch.eye(6).double() + mix * _features("mix", 6)) + mix
    x, y = Moments.of(made), Moments.of(_features("real"))
    assert fid(x, y) == pytest.approx(float(_compute_fid(x.mean, x.covariance, y.mean, y.covariance)), rel=1e-6)


def test_of_diagonal_normals_it_is_the_closed_form() -> None:
    """``|m_x - m_y|^2 + |s_x - s_y|^2`` where covariances commute (Dowson & Landau 1982)."""
    means, spreads = _features("means", 2), _features("spreads", 2).abs()
    x, y = (_moments(m, torch.diag(s**2)) for m, s in zip(means, spreads, strict=True))
    expected = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    assert fid(x, y) == pytest.approx(float(expected), rel=1e-9)
    assert fid(x, x) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_features_have_a_distance_too() -> None:
    made, real = Moments.of(_features("made", 4)), Moments.of(_features("real", 4))
    assert fid(made, real) > 0
    assert fid(made, made) == pytest.approx(0, abs=1e-6)


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="two of each"):
        fid(Moments.of(_features("made", 1)), Moments.of(_features("real")))
