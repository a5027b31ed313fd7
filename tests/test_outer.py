from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen.errors import UserError
from metagen.flat import Layout, layout_of
from metagen.learner import meta_update
from metagen.outer import QUINTICS, OuterConfig, adam, direction, no_moments, orthogonalise

STEPS, SIZE = 20, 30


def _layout() -> Layout:
    return layout_of(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1, bias=False)))


def _gradients() -> Tensor:
    return torch.randn(STEPS, SIZE, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, STEPS)[:, None]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
        ("nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95))),
    ],
)
def test_an_outer_optimiser_is_torchs(name: Any, reference: Callable[[Any], torch.optim.Optimizer]) -> None:
    config = OuterConfig(optimizer=name, learning_rate=0.1, momentum=0.8, beta2=0.95, clip=1e9)
    theta = torch.linspace(-1, 1, SIZE)
    parameter = nn.Parameter(theta.clone())
    optimizer, moments = reference([parameter]), no_moments(SIZE)
    for gradient in _gradients():
        theta, moments = meta_update(theta, gradient, float(gradient.norm()), moments, config, _layout(), 1.0)
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.allclose(theta, parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "muon"])
def test_an_update_changes_none_of_its_arguments(name: Any) -> None:
    config = OuterConfig(optimizer=name, clip=0.1)
    theta, gradient = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1))
    _, moments = meta_update(theta, gradient, float(gradient.norm()), no_moments(SIZE), config, _layout(), 1.0)
    before = (theta.clone(), gradient.clone(), {key: value.clone() for key, value in moments.items()})
    meta_update(theta, gradient, float(gradient.norm()), moments, config, _layout(), 1.0)
    assert torch.equal(theta, before[0])
    assert torch.equal(gradient, before[1])
    assert all(torch.equal(moments[key], before[2][key]) for key in moments)


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam() -> None:
    module = nn.Sequential(nn.Conv2d(2, 24, 3), nn.GroupNorm(2, 24), nn.Conv2d(24, 5, 1), nn.Linear(3, 3))
    layout = layout_of(module)
    gradient = torch.randn(layout.size, generator=torch.Generator().manual_seed(5))
    config = OuterConfig(optimizer="muon", adam_ratio=0.3, momentum=0.9)
    towards, moments = direction(config, layout, gradient, no_moments(layout.size))
    by_adam, _ = adam(gradient, no_moments(layout.size), 0.9, config.beta2)
    rest, lookahead = layout.unflatten(0.3 * by_adam), layout.unflatten(torch.lerp(gradient, moments["first"], 0.9))
    scales = {"0.weight": (24 / 18) ** 0.5, "2.weight": 1.0}
    for name, part in layout.unflatten(towards).items():
        if name in scales:
            kernel = lookahead[name].permute(0, 2, 3, 1).flatten(1)
            assert torch.equal(part.permute(0, 2, 3, 1).flatten(1), scales[name] * orthogonalise(kernel)), name
        else:
            assert torch.equal(part, rest[name]), name


@pytest.mark.parametrize("shape", [(8, 8), (32, 9), (9, 32), (1, 16), (16, 1), (64, 576)])
def test_orthogonalising_brings_all_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = 1e-3 * u @ torch.diag(torch.linspace(1, 0.1, min(shape))) @ v  # of full rank, and small
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result.double())
    assert result.dtype == torch.float32
    assert 0.75 < values.min() <= values.max() < 1.25


def test_the_polynomials_bring_what_they_promise_near_one() -> None:
    values = torch.logspace(math.log10(0.003), 0, 10_000, dtype=torch.float64)
    for a, b, c in QUINTICS:
        values = a * values + b * values**3 + c * values**5
    assert 0.795 < values.min() <= values.max() < 1.205


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (64, 144)])
def test_orthogonalising_is_the_plain_newton_schulz_iteration(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    before = matrix.clone()
    x = matrix.double()
    x = x / torch.linalg.svdvals(x).pow(4).sum().pow(1 / 4)
    for a, b, c in QUINTICS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.linalg.norm(orthogonalise(matrix).double() - x) < 1e-4 * torch.linalg.norm(x)
    assert torch.equal(matrix, before)


def test_orthogonalising_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalise(matrix) @ v.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-4)
    assert (inside.diagonal() > 0).all()


def test_a_zero_gradient_moves_nothing() -> None:
    for name in ("sgd", "nesterov", "adam", "muon"):
        config = OuterConfig(optimizer=name)
        theta = torch.linspace(-1, 1, SIZE)
        moved, _ = meta_update(theta, torch.zeros(SIZE), 0.0, no_moments(SIZE), config, _layout(), 1.0)
        assert torch.equal(moved, theta), name


def test_a_gradient_longer_than_clip_is_scaled_down_to_it() -> None:
    config = OuterConfig(optimizer="sgd", learning_rate=1.0, clip=0.5)
    theta, gradient = torch.zeros(SIZE), torch.full((SIZE,), 3.0)
    moved, _ = meta_update(theta, gradient, float(gradient.norm()), no_moments(SIZE), config, _layout(), 1.0)
    assert moved.norm() == pytest.approx(0.5)
    short = gradient * 0.01
    moved, _ = meta_update(theta, short, float(short.norm()), no_moments(SIZE), config, _layout(), 0.5)
    assert torch.equal(moved, -0.5 * short)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_the_rate_rises_through_the_warmup_then_falls_and_stays_in_0_to_1(schedule: Any, warmup: int) -> None:
    config = OuterConfig(schedule=schedule, warmup=warmup)
    rates = [config.rate(step, 40) for step in range(40)]
    assert all(0 < rate <= 1 for rate in rates)
    decay = [config.model_copy(update={"warmup": 0}).rate(step, 40) for step in range(40)]
    assert rates[:warmup] == [(step + 1) / (warmup + 1) * decay[step] for step in range(warmup)]
    assert rates[warmup:] == decay[warmup:]
    assert decay == sorted(decay, reverse=True)
    halves = {"cosine": 0.5, "linear": 0.5, "constant": 1.0}
    assert decay[20] == pytest.approx(halves[schedule])
    assert math.isclose(decay[0], 1.0)


@pytest.mark.parametrize(
    "values",
    [{"optimizer": "adagrad"}, {"learning_rate": 0}, {"momentum": 1.0}, {"clip": -1}, {"warmup": -1}, {"beta3": 1}],
)
def test_an_impossible_outer_config_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        OuterConfig.parse(values)
