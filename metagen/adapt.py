"""The inner loop: one function, used by training, by evaluation and by ``metagen adapt`` alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metagen.generators.family import Condition
from metagen.policies.policy import Gradient, Policy, Run, Solver
from metagen.problem import Look, Problem
from metagen.tasks.categories import Place
from metagen.tasks.positions import Positions


@dataclass(frozen=True)
class Step:
    """The state after an inner step."""

    taken: int
    """Steps taken so far; 0 is the starting point."""
    parameters: Tensor
    """``[P]``."""
    support_loss: float
    """Loss on the support set in this step's draw, before the step; nan at the starting point."""


@dataclass(frozen=True)
class Inner:
    """The inner problem of one task: what to adapt, to which images, how."""

    problem: Problem
    policy: Policy
    support: Tensor
    """``[K, C, H, W]``."""
    start: Tensor
    """Where adaptation started ``[P]``: what the proximal term pulls back to."""
    place: Place | None
    """Where the task lies among those of training, where tasks are sorted."""
    positions: Positions | None
    """Where the support images' drawings lie, where inner steps move them."""

    @staticmethod
    def of(problem: Problem, policy: Policy, start: Tensor, support: Tensor) -> Inner:
        """Adapt from ``start [P]`` to ``support [K, C, H, W]``."""
        place = problem.sorter.place(support) if problem.sorter else None
        positions = Positions.of(support) if problem.relocate else None
        return Inner(problem, policy, support, start, place, positions)

    def step(
        self, run: Run, phi: Tensor, step: int, rng: torch.Generator, differentiable: bool = False
    ) -> tuple[Tensor, float]:
        """The parameters ``[P]`` after inner step ``step`` (from 0) at ``phi [P]``, and the support loss before it.

        ``differentiable``: exactly so in ``phi``, ``start``, ``run.vector`` and ``run.state``.
        """
        if isinstance(self.policy, Solver):
            return self.policy.solve(run, self.problem, phi, self.shown(rng), rng)
        take = self.problem.differentiable_gradient if differentiable else self.problem.gradient
        return self.stepped(run, phi, step, [take(*look) for look in self.looks(phi, step, rng)])

    def looks(self, phi: Tensor, step: int, rng: torch.Generator) -> list[Look]:
        """What inner step ``step`` asks for at ``phi [P]``: one gradient, or those of two halves of the support set."""
        draws, count = self.problem.draws, len(self.support)
        # Halves share one draw of noise, so that their mean is the gradient of the whole set.
        draw = self.problem.family.draw(count * draws, rng)
        condition = self.shown(rng)
        targets = self.positions.drawn_again(rng) if self.positions else condition.support
        if not (self.policy.wants_halves(step) and count > 1):
            return [Look(phi, condition, targets.repeat_interleave(draws, dim=0), draw)]

        def look(rows: Tensor) -> Look:
            """Some of the support images, each conditioned on all the others."""
            images = targets[rows].repeat_interleave(draws, dim=0)
            mine = {name: value.unflatten(0, (-1, draws))[rows].flatten(0, 1) for name, value in draw.items()}
            return Look(phi, Condition(condition.support, condition.members[rows]), images, mine)

        return [look(rows) for rows in torch.randperm(count, generator=rng).tensor_split(2)]

    def shown(self, rng: torch.Generator) -> Condition:
        """Which support images each of them is conditioned on in one inner step: some of the others."""
        return Condition.withholding(self.support, self.problem.withheld, rng)

    def stepped(
        self, run: Run, phi: Tensor, step: int, found: Sequence[tuple[float | Tensor, Tensor]]
    ) -> tuple[Tensor, float]:
        """As ``step``, with what its ``looks`` found."""
        problem, support = self.problem, self.support
        (loss, slope), *rest = [
            (torch.as_tensor(value, dtype=vector.dtype, device=vector.device), self._masked(vector))
            for value, vector in found
        ]
        gradient = Gradient(slope, loss, support, place=self.place)
        if rest:
            [(other_loss, other)] = rest
            weight = (len(support) // 2) / len(support)  # tensor_split makes the first half the larger
            loss = (1 - weight) * loss + weight * other_loss
            mean = torch.lerp(slope, other, weight)
            gradient = gradient._replace(mean=mean, loss=loss, halves=(slope, other))
        if problem.proximal:
            pull = self._masked(problem.proximal * (phi - self.start))
            gradient = gradient._replace(mean=gradient.mean + pull)
        after = self.policy.step(run, phi, gradient, step)
        if after.shape != phi.shape:  # a single number would be loaded everywhere
            wanted = f"where {[*phi.shape]} is needed"
            raise ValueError(f"policy {type(self.policy).__name__} gave parameters {[*after.shape]} {wanted}")
        share = problem.share_of_step(len(support), run.vector)
        if share < 1:
            after = torch.lerp(phi, after, share)
        if problem.adapted is not None:  # whatever the policy does, the rest stays as it was
            after = torch.where(problem.adapted, after, phi)
        return after, float(gradient.loss.detach())

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

    Each step takes the mean loss over ``K * draws`` noisy copies of the support images, moved where the problem asks
    for it (``relocate``), each conditioned on the *other* support images or some of them (``withheld``), and hands its
    gradient to the policy. A policy may ask for the gradients of two halves of the support set apart: how far they
    agree says how much of what they ask for is of the class and how much of the single image. Both halves share one
    draw of noise, so that their mean is the gradient of the whole set. A policy that solves for the parameters gets the
    images instead. Once a policy has finished, the parameters stay and nothing more is computed. ``parameters`` is not
    changed.
    """
    for [step] in adapt_all(problem, [parameters], [support], policy, [run], steps, [rng]):
        yield step


def adapt_all(
    problem: Problem,
    starts: Sequence[Tensor],
    supports: Sequence[Tensor],
    policy: Policy,
    runs: Sequence[Run],
    steps: int,
    rngs: Sequence[torch.Generator],
) -> Iterator[list[Step]]:
    """``adapt`` of several tasks in step with each other: yields lists of steps, one a task.

    What the tasks ask for at a step is computed together, in whatever way ``problem.gradients`` does it.
    """
    tasks = [Inner.of(problem, policy, *pair) for pair in zip(starts, supports, strict=True)]
    now = [Step(0, start, float("nan")) for start in starts]
    yield now
    for k in range(steps):
        live = [t for t, run in enumerate(runs) if not run.finished]
        now = [replace(step, taken=k + 1) for step in now]
        if isinstance(policy, Solver):
            after = {t: tasks[t].step(runs[t], now[t].parameters, k, rngs[t]) for t in live}
        else:
            asked = {t: tasks[t].looks(now[t].parameters, k, rngs[t]) for t in live}
            found = iter(problem.gradients([look for looks in asked.values() for look in looks]))
            after = {
                t: tasks[t].stepped(runs[t], now[t].parameters, k, [next(found) for _ in looks])
                for t, looks in asked.items()
            }
        for t, (phi, loss) in after.items():
            now[t] = Step(k + 1, phi, loss)
        yield now
