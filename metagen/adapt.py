"""The inner loop: one function, used by training, by evaluation and by ``metagen adapt`` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metagen.flat import FlatNetwork
from metagen.generators.family import Condition, Draw, Family
from metagen.policies.policy import Gradient, Policy, Run, Solver
from metagen.tasks.categories import Place, Sorter

Noise = torch.Generator | Draw
"""The random numbers of losses, or the generator to draw them from."""

Of = Callable[[nn.Module, Condition, Tensor, Draw], Tensor]


@dataclass(frozen=True)
class Problem:
    """What is adapted and how its loss is taken: a family and a network on a device."""

    family: Family
    network: FlatNetwork
    draws: int
    """Noise draws for each support image in an inner step."""
    adapted: Tensor | None = None
    """Which parameters the inner loop moves, bool ``[P]``; None for all."""
    proximal: float = 0.0
    """Weight ``lambda`` of ``lambda / 2 |phi - theta|^2`` in the inner loss, which ties adaptation to its start."""
    sorter: Sorter | None = None
    """Sorts tasks into categories, for policies to choose by; None for none."""

    def gradient(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> tuple[float, Tensor]:
        """Mean loss of ``images [B, C, H, W]`` and its gradient ``[P]`` at ``parameters [P]``."""
        self.network.load(parameters)
        loss = self.losses(self.network.module, condition, images, noise).mean()
        return float(loss.detach()), self.network.gradient(loss, parameters.dtype)

    @torch.no_grad()
    def loss(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """The losses of ``images``, one each ``[B]``, without a gradient."""
        self.network.load(parameters)
        return self.losses(self.network.module, condition, images, noise)

    def differentiable_loss(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """Mean loss of ``images``, differentiable in ``parameters`` twice (see ``FlatNetwork.call``)."""
        return self.network.call(lambda module: self.losses(module, condition, images, noise).mean(), parameters)

    def differentiable_gradient(
        self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """As ``gradient``, with both differentiable in ``parameters``, which must require grad."""
        loss = self.differentiable_loss(parameters, condition, images, noise)
        (slope,) = torch.autograd.grad(loss, parameters, create_graph=True)
        return loss, slope

    def losses(self, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """The losses ``[B]`` of ``images`` with a module as it is."""
        return self._taken(self.family.losses, module, condition, images, noise)

    @torch.no_grad()
    def scores(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """What evaluation measures of ``images``, one each ``[B]``; lower is better (``family.metric``)."""
        self.network.load(parameters)
        return self._taken(self.family.scores, self.network.module, condition, images, noise)

    def _taken(self, of: Of, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        device = self.network.device
        numbers = self.family.draw(len(images), noise) if isinstance(noise, torch.Generator) else noise
        draw = {name: value.to(device) for name, value in numbers.items()}
        condition = Condition(condition.support.to(device), condition.members.to(device))
        return of(module, condition, images.to(device), draw)


@dataclass(frozen=True)
class Step:
    """The state after an inner step."""

    taken: int
    """Steps taken so far; 0 is the starting point."""
    parameters: Tensor
    support_loss: float
    """Loss on the support set in this step's draw, before the step; nan at the starting point."""


@dataclass(frozen=True)
class Inner:
    """The inner problem of one task: what to adapt, to which images, how."""

    problem: Problem
    policy: Policy
    condition: Condition
    """Each support image with all the *others*."""
    start: Tensor
    """Where adaptation started ``[P]``: what the proximal term pulls back to."""
    place: Place | None
    """Where the task lies among those of training, where tasks are sorted."""

    @staticmethod
    def of(problem: Problem, policy: Policy, start: Tensor, support: Tensor) -> Inner:
        """Adapt from ``start [P]`` to ``support [K, C, H, W]``."""
        place = problem.sorter.place(support) if problem.sorter else None
        return Inner(problem, policy, Condition.leave_one_out(support), start, place)

    def step(
        self, run: Run, phi: Tensor, step: int, rng: torch.Generator, differentiable: bool = False
    ) -> tuple[Tensor, float]:
        """The parameters ``[P]`` after inner step ``step`` (from 0) at ``phi [P]``, and the support loss before it.

        ``differentiable``: exactly so in ``phi``, ``start``, ``run.vector`` and ``run.state``.
        """
        policy, problem, count = self.policy, self.problem, len(self.condition.support)
        if isinstance(policy, Solver):
            return policy.solve(run, problem, phi, self.condition, rng)
        # Halves share one draw of noise, so that their mean is the gradient of the whole set.
        draw = problem.family.draw(count * problem.draws, rng)
        halves = policy.wants_halves(step) and count > 1
        rows = torch.randperm(count, generator=rng).tensor_split(2) if halves else (torch.arange(count),)
        looks = [self._gradient(phi, part, draw, differentiable) for part in rows]
        (loss, slope), *rest = looks
        gradient = Gradient(slope, loss, self.condition.support, place=self.place)
        if rest:
            [(other_loss, other)] = rest
            share = len(rows[1]) / count
            loss = (1 - share) * loss + share * other_loss
            mean = torch.lerp(slope, other, share)
            gradient = gradient._replace(mean=mean, loss=loss, halves=(slope, other))
        if problem.proximal:
            pull = self._masked(problem.proximal * (phi - self.start))
            gradient = gradient._replace(mean=gradient.mean + pull)
        after = policy.step(run, phi, gradient, step)
        if problem.adapted is not None:  # whatever the policy does, the rest stays as it was
            after = torch.where(problem.adapted, after, phi)
        return after, float(gradient.loss.detach())

    def _gradient(self, phi: Tensor, rows: Tensor, draw: Draw, differentiable: bool) -> tuple[Tensor, Tensor]:
        """Loss and gradient of some of the support images, each conditioned on all the others."""
        condition, problem = self.condition, self.problem
        images = condition.support[rows].repeat_interleave(problem.draws, dim=0)
        mine = {name: value.unflatten(0, (-1, problem.draws))[rows].flatten(0, 1) for name, value in draw.items()}
        seen = Condition(condition.support, condition.members[rows])
        if differentiable:
            loss, slope = problem.differentiable_gradient(phi, seen, images, mine)
        else:
            value, slope = problem.gradient(phi, seen, images, mine)
            loss = slope.new_tensor(value)
        return loss, self._masked(slope)

    def _masked(self, slope: Tensor) -> Tensor:
        return slope if self.problem.adapted is None else slope * self.problem.adapted


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
    how much of the single image. Both halves share one draw of noise, so that their mean is the gradient of the whole
    set. A policy that solves for the parameters gets the images instead. Once a policy has finished, the parameters
    stay and nothing more is computed. ``parameters`` is not changed.
    """
    inner = Inner.of(problem, policy, parameters, support)
    phi = parameters
    loss = float("nan")
    yield Step(0, phi, loss)
    for step in range(steps):
        if not run.finished:
            phi, loss = inner.step(run, phi, step, rng)
        yield Step(step + 1, phi, loss)
