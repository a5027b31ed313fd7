from __future__ import annotations

from typing import Any

import pytest
import torch

from metagen.errors import UserError
from metagen.generators import Condition
from metagen.seeding import torch_generator

MLP = "generator.architecture={network: mlp, patch: 1, skips: false, widths: [16, 24], embedding: 16, "
"""A conformance case's architecture; what follows says the rest."""


@pytest.mark.parametrize("family", ["flow", "diffusion", "edm"])
@pytest.mark.parametrize("connectivity", ["plain", "residual", "dense"])
@pytest.mark.parametrize("shown", ["none", "vector"])
def test_every_parameter_of_a_perceptron_takes_part(family: str, connectivity: str, shown: str, case: Any) -> None:
    found = case(family, f"{MLP}connectivity: {connectivity}, set_conditioning: {shown}}}")
    _, gradient = found.gradient()
    assert torch.isfinite(gradient).all()
    assert [name for name, part in found.problem.network.layout.unflatten(gradient).items() if not part.any()] == []
    samples = found.samples()
    assert samples.shape == (2, 2, 1, 16, 16)
    assert samples.abs().max() <= 1


def test_a_perceptron_sees_its_own_support_set_alone(case: Any) -> None:
    problem = case("flow", f"{MLP}set_conditioning: vector}}").problem
    rng = torch_generator("point")
    theta = problem.network.initial + 0.1 * torch.randn(problem.network.layout.size, generator=rng)
    support, images = (torch.rand(2, 3, 1, 16, 16, generator=rng) for _ in range(2))
    draw = problem.family.draw(6, rng)
    changed = support.clone()
    changed[1] += 0.5
    before, after = (
        problem.loss(theta, Condition.of_tasks(shown), images.flatten(0, 1), draw) for shown in (support, changed)
    )
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:], after[3:]).any()


def test_what_a_perceptron_has_no_use_for_is_refused_at_once(case: Any) -> None:
    with pytest.raises(
        UserError, match=r"patch: 2 does not fit .*network mlp of family flow.*; skips: .*set_cond.*vec"
    ):
        case("flow", "generator.architecture={network: mlp, patch: 2}")
