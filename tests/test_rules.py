from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen.flat import Layers, layout_of
from metagen.outer import orthogonalise
from metagen.policies.rules import RULES

STEPS, LR = 20, 0.05
LAYOUT = layout_of(nn.Sequential(nn.Conv2d(2, 6, 2), nn.Linear(3, 3)))
SIZE, LAYERS = LAYOUT.size, Layers(LAYOUT, torch.device("cpu"))


def _gradients() -> Tensor:
    return torch.randn(STEPS, SIZE, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, SIZE)


class Lion(torch.optim.Optimizer):
    """Lion as its paper writes it (Chen et al. 2023, algorithm 2), without weight decay."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            p.data -= LR * (0.9 * m + 0.1 * p.grad).sign()
            m.copy_(0.99 * m + 0.01 * p.grad)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum on the one kernel ``[6, 8]``, the rest by torch's Adam."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.adam = torch.optim.Adam(parameters, lr=LR)

    def step(self) -> None:  # type: ignore[override]
        [p] = self.param_groups[0]["params"]
        kernel, m = p.data[:48].clone(), self.state[p].setdefault("m", torch.zeros(48))
        m.lerp_(p.grad[:48], 0.1)
        u = orthogonalise(torch.lerp(p.grad[:48], m, 0.9).view(6, 8))
        self.adam.step()
        p.data[:48] = kernel - LR * 0.2 * 8**0.5 * u.flatten()


REFERENCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR),
    "momentum": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=LR),
    "sign": Lion,
    "muon": Muon,
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_is_the_optimiser_it_is_named_after(name: str) -> None:
    phi = torch.linspace(-1, 1, SIZE)
    parameter = nn.Parameter(phi.clone())
    rule, state, optimizer = RULES[name](), {}, REFERENCES[name]([parameter])
    for step, gradient in enumerate(_gradients()):
        phi = phi - LR * rule(state, gradient.clone(), step, LAYERS)
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.allclose(phi, parameter.detach(), rtol=1e-5, atol=1e-6), step


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_changes_no_gradient_and_keeps_what_it_needs_in_the_state_it_is_given(name: str) -> None:
    rule, gradients = RULES[name](), _gradients()
    one: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for step, gradient in enumerate(gradients):
        first = rule(one, gradient, step, LAYERS).clone()
        assert torch.equal(rule(other, gradient, step, LAYERS), first)
    assert torch.equal(gradients, _gradients())


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_zero_gradient_from_the_start_moves_nothing(name: str) -> None:
    rule, state = RULES[name](), {}
    assert not any(rule(state, torch.zeros(SIZE), step, LAYERS).any() for step in range(3))
