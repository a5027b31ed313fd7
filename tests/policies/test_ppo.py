from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.policies.ppo import PpoOptions, advantages, diagnostics, objective

N = 6
OPTIONS = PpoOptions(clip=0.2, entropy=0.0, value=0.0)


def _objective(new: Tensor, old: Tensor, advantage: Tensor, options: PpoOptions = OPTIONS, **others: Tensor) -> Tensor:
    zeros = torch.zeros_like(new)
    parts = {"value": zeros, "reward": zeros, "entropy": zeros, **others}
    return objective(new, old, advantage, options=options, **parts)


def test_on_fresh_experience_the_gradient_is_the_policy_gradient() -> None:
    """``r = 1``: ``d loss / d log pi = -A / N``."""
    new = torch.linspace(-3, 1, N, requires_grad=True)
    advantage = torch.linspace(-1, 2, N)
    (slope,) = torch.autograd.grad(_objective(new, new.detach(), advantage), new)
    assert torch.allclose(slope, -advantage / N)


def test_stale_experience_is_weighted_by_the_ratio() -> None:
    old = torch.linspace(-3, 1, N)
    ratios = torch.tensor([0.82, 0.9, 1.0, 1.1, 1.15, 1.19])
    new, advantage = (old + ratios.log()).requires_grad_(), torch.linspace(-1, 2, N)
    (slope,) = torch.autograd.grad(_objective(new, old, advantage), new)
    assert torch.allclose(slope, -ratios * advantage / N)


@pytest.mark.parametrize(
    ("ratio", "advantage", "asks"), [(1.3, 1.0, False), (0.7, -1.0, False), (1.3, -1.0, True), (0.7, 1.0, True)]
)
def test_beyond_the_clip_only_what_leads_back_is_asked_for(ratio: float, advantage: float, asks: bool) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    (slope,) = torch.autograd.grad(_objective(new, torch.zeros(1), torch.tensor([advantage])), new)
    assert float(slope) == pytest.approx(-ratio * advantage if asks else 0.0)


def test_of_a_categorical_the_gradient_is_the_closed_form() -> None:
    """One state: ``d loss / d logits = -mean A_i (onehot(a_i) - p) - c_H dH/dlogits``, and the entropy's slope is
    ``-p (log p + H)``."""
    logits, actions = torch.tensor([0.3, -0.2, 0.5], requires_grad=True), torch.tensor([0, 1, 1, 2, 0, 0])
    advantage, options = torch.linspace(-1, 2, N), PpoOptions(entropy=0.1, value=0.0)
    log_p = logits.log_softmax(0)
    entropy = -(log_p.exp() * log_p).sum()
    loss = _objective(log_p[actions], log_p[actions].detach(), advantage, options, entropy=entropy.expand(len(actions)))
    (slope,) = torch.autograd.grad(loss, logits)
    p = logits.detach().softmax(0)
    one_hot = torch.nn.functional.one_hot(actions, 3).float()
    closed = -(advantage[:, None] * (one_hot - p)).mean(0) + 0.1 * p * (p.log() + float(entropy.detach()))
    assert torch.allclose(slope, closed, atol=1e-6)


def test_the_baseline_is_pulled_to_the_reward_in_units_of_it() -> None:
    value, reward = torch.zeros(N, requires_grad=True), torch.linspace(0, 1, N)
    options = PpoOptions(value=0.5, reward_unit=0.1, entropy=0.0)
    zeros = torch.zeros(N)
    (slope,) = torch.autograd.grad(objective(zeros, zeros, zeros, value, reward, zeros, options), value)
    assert torch.allclose(slope, -0.5 * reward / 0.1**2 / N)


def test_advantages_are_normalised_and_do_not_carry_a_gradient() -> None:
    reward = torch.randn(9, generator=torch.Generator().manual_seed(0))
    value = torch.full((9,), 0.3, requires_grad=True)
    found = advantages(5 + 7 * reward, value)
    assert not found.requires_grad
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1)
    assert torch.allclose(found, advantages(reward, value), atol=1e-5)
    assert not advantages(torch.ones(4), torch.ones(4)).any()


def test_diagnostics_are_what_they_are_called() -> None:
    old, ratios = torch.full((4,), -1.0), torch.tensor([0.5, 1.0, 1.1, 2.0])
    reward = torch.tensor([0.0, 1.0, 2.0, 3.0])
    found: dict[str, Any] = diagnostics(old + ratios.log(), old, reward / 2, reward, torch.ones(4), OPTIONS)
    assert found["clip_fraction"] == 0.5
    assert found["kl"] == pytest.approx(float((ratios - 1 - ratios.log()).mean()))
    assert found["explained_variance"] == pytest.approx(0.75)
    assert (found["reward"], found["entropy"]) == (1.5, 1.0)
