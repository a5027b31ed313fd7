"""The inner loop: one function, used by training, by evaluation and by ``metagen adapt`` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metagen.flat import FlatNetwork
from metagen.generators.family import Condition, Draw, Family
from metagen.policies.policy import Gradient, Policy, Run

Of = Callable[[nn.Module, Condition, Tensor, Draw], Tensor]


@dataclass(frozen=True)
class Problem:
    """What is adapted and how its loss is taken: a family and a network on a device."""

    family: Family
    network: FlatNetwork
    draws: int
    """Noise draws for each support image in an inner step."""

    def gradient(
        self, parameters: Tensor, condition: Condition, images: Tensor, rng: torch.Generator
    ) -> tuple[float, Tensor]:
        """Mean loss of ``images [B, C, H, W]`` and its gradient ``[P]`` at ``parameters [P]``."""
        self.network.load(parameters)
        loss = self._taken(self.family.losses, condition, images, rng).mean()
        gradient = self.network.gradient(loss)
        return float(loss.detach()), gradient

    @torch.no_grad()
    def loss(self, parameters: Tensor, condition: Condition, images: Tensor, rng: torch.Generator) -> Tensor:
        """The losses of ``images``, one each ``[B]``, without a gradient."""
        self.network.load(parameters)
        return self._taken(self.family.losses, condition, images, rng)

    @torch.no_grad()
    def scores(self, parameters: Tensor, condition: Condition, images: Tensor, rng: torch.Generator) -> Tensor:
        """What evaluation measures of ``images``, one each ``[B]``; lower is better (``family.metric``)."""
        self.network.load(parameters)
        return self._taken(self.family.scores, condition, images, rng)

    def _taken(self, of: Of, condition: Condition, images: Tensor, rng: torch.Generator) -> Tensor:
        device = self.network.device
        draw = {name: value.to(device) for name, value in self.family.draw(len(images), rng).items()}
        condition = Condition(condition.support.to(device), condition.members.to(device))
        return of(self.network.module, condition, images.to(device), draw)


@dataclass(frozen=True)
class Step:
    """The state after an inner step. ``parameters`` is the live vector: copy it to keep it."""

    taken: int
    """Steps taken so far; 0 is the starting point."""
    parameters: Tensor
    support_loss: float
    """Loss on the support set in this step's draw, before the step; nan at the starting point."""


def adapt(
    problem: Problem,
    parameters: Tensor,
    support: Tensor,
    policy: Policy,
    run: Run,
    steps: int,
    rng: torch.Generator,
) -> Iterator[Step]:
    """Adapt ``parameters [P]`` to ``support [K, C, H, W]``; yields the start and then each of ``steps`` steps.

    Each step takes the mean loss over ``K * draws`` noisy copies of the support images, each conditioned on
    the *other* support images, and hands its gradient to the policy. A policy may ask for the gradients of two
    halves of the support set apart: how far they agree says how much of what they ask for is of the class and
    how much of the single image. ``parameters`` is not changed.
    """
    phi = parameters.clone()
    condition = Condition.leave_one_out(support)
    yield Step(0, phi, float("nan"))
    for step in range(steps):
        if policy.wants_halves(step) and len(support) > 1:
            one, other = torch.randperm(len(support), generator=rng).tensor_split(2)
            loss_one, slope_one = _support_gradient(problem, phi, condition, one, rng)
            loss_other, slope_other = _support_gradient(problem, phi, condition, other, rng)
            share = len(other) / len(support)
            loss = (1 - share) * loss_one + share * loss_other
            gradient = Gradient(torch.lerp(slope_one, slope_other, share), (slope_one, slope_other))
        else:
            loss, slope = _support_gradient(problem, phi, condition, torch.arange(len(support)), rng)
            gradient = Gradient(slope)
        policy.step(run, phi, gradient, step)
        yield Step(step + 1, phi, loss)


def _support_gradient(
    problem: Problem, phi: Tensor, condition: Condition, rows: Tensor, rng: torch.Generator
) -> tuple[float, Tensor]:
    """Loss and gradient of some of the support images, each conditioned on all the others."""
    images = condition.support[rows].repeat_interleave(problem.draws, dim=0)
    return problem.gradient(phi, Condition(condition.support, condition.members[rows]), images, rng)
