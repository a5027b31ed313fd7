from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen.policies.rules import RULES

STEPS, SIZE, LR = 20, 50, 0.05


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


REFERENCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR),
    "momentum": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=LR),
    "sign": Lion,
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_is_the_optimiser_it_is_named_after(name: str) -> None:
    phi = torch.linspace(-1, 1, SIZE)
    parameter = nn.Parameter(phi.clone())
    rule, state, optimizer = RULES[name](), {}, REFERENCES[name]([parameter])
    for step, gradient in enumerate(_gradients()):
        phi = phi - LR * rule(state, gradient.clone(), step)
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.allclose(phi, parameter.detach(), rtol=1e-5, atol=1e-6), step


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_changes_no_gradient_and_keeps_what_it_needs_in_the_state_it_is_given(name: str) -> None:
    rule, gradients = RULES[name](), _gradients()
    one: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for step, gradient in enumerate(gradients):
        first = rule(one, gradient, step).clone()
        assert torch.equal(rule(other, gradient, step), first)
    assert torch.equal(gradients, _gradients())


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_zero_gradient_from_the_start_moves_nothing(name: str) -> None:
    rule, state = RULES[name](), {}
    assert not any(rule(state, torch.zeros(3), step).any() for step in range(3))
