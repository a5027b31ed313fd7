"""The inner loop: one function, used by training, by evaluation and by ``metagen adapt`` alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metagen.flat import FlatNetwork, Inputs
from metagen.generators.family import Condition, Draw, Family, checked
from metagen.policies.policy import Gradient, Policy, Run, Solver
from metagen.tasks.categories import Place, Sorter
from metagen.tasks.episodes import Episode

Noise = torch.Generator | Draw
"""The random numbers of losses, or the generator to draw them from."""


class Look(NamedTuple):
    """What one gradient is asked of: where, and of which images in which noise."""

    parameters: Tensor
    """``[P]``."""
    condition: Condition
    images: Tensor
    """``[B, C, H, W]``."""
    noise: Draw


class Group(NamedTuple):
    """Episodes that are adapted to in step with each other."""

    episodes: Sequence[Episode]
    rngs: Sequence[torch.Generator]


Slope = tuple[float, Tensor]
"""A mean loss, and its gradient ``[P]``."""


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
    withheld: int = 1
    """Support images that an inner step withholds from each target: itself, and beyond 1 others at random."""
    shots: int = 1
    """Support images that a learned policy was trained at; 1 where their number makes no difference to it."""
    exact: bool = True
    """Second derivatives in float32, whatever dtype the network computes in."""
    together: int = 1
    """Tasks that the network computes at once: 1 is a loop over tasks, more a batch of networks (``paths.py``)."""

    def __reduce__(self) -> tuple[Callable[..., Problem], tuple[Any, ...]]:
        """By what its network is built from: parameters are views of one vector, which a pickle would tear apart."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return _rebuilt, (self.network.initial, self.network.device, self.network.dtype, rest)

    def share_of_step(self, shots: int, policy: Tensor) -> float:
        """What of a learned policy's step is taken with ``shots`` images: fewer than it was trained at say less.

        In proportion to the others that each image is seen beside, so with one image none: that one would be seen
        beside itself, and steps along its loss teach a network to copy. A rule without parameters ``policy [G]`` has
        learned nothing, and does as it is told.
        """
        return 1.0 if shots >= self.shots or not len(policy) else (shots - 1) / (self.shots - 1)

    def groups(self, episodes: Sequence[Episode], rngs: Sequence[torch.Generator]) -> Iterator[Group]:
        """Episodes with their generators of noise, as many as are computed at once."""
        for first in range(0, len(episodes), self.together):
            part = slice(first, first + self.together)
            yield Group(episodes[part], rngs[part])

    def gradients(self, looks: Sequence[Look]) -> list[Slope]:
        """The ``gradient`` of each of ``looks``, in order; those alike in shape together, ``together`` at a time."""
        alike: dict[object, list[int]] = defaultdict(list)
        for index, look in enumerate(looks):
            alike[look.images.shape, look.condition.support.shape, look.condition.members.shape].append(index)
        found: dict[int, Slope] = {}
        for indices in alike.values():
            for first in range(0, len(indices), self.together):
                some = indices[first : first + self.together]
                asked = [looks[index] for index in some]
                slopes = [self.gradient(*asked[0])] if len(some) == 1 else self._at_once(asked)
                found.update(zip(some, slopes, strict=True))
        return [found[index] for index in range(len(looks))]

    def _at_once(self, looks: Sequence[Look]) -> list[Slope]:
        """As ``gradients``, of looks alike in shape."""

        def loss(module: nn.Module, inputs: Inputs) -> Tensor:
            condition = Condition(inputs["support"], inputs["members"])
            images = inputs["images"]
            found = self.family.losses(module, condition, images, inputs["draw"])
            return checked(self.family, "losses", found, (len(images),)).mean()

        device = self.network.device
        inputs: Inputs = {
            "support": torch.stack([look.condition.support for look in looks]).to(device),
            "members": torch.stack([look.condition.members for look in looks]).to(device),
            "images": torch.stack([look.images for look in looks]).to(device),
            "draw": {name: torch.stack([look.noise[name] for look in looks]).to(device) for name in looks[0].noise},
        }
        try:
            losses, slopes = self.network.gradients(loss, torch.stack([look.parameters for look in looks]), inputs)
        except RuntimeError as error:
            error.add_note(
                f"Several tasks were computed at once, under torch.vmap. If that is why, set 'batched = False' in "
                f"{type(self.family).__name__}, or 'together: 1' in the config."
            )
            raise
        return list(zip(losses.tolist(), slopes.unbind(), strict=True))

    def gradient(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Slope:
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
        return self.network.call(
            lambda module: self.losses(module, condition, images, noise).mean(), parameters, self.exact
        )

    def differentiable_gradient(
        self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """As ``gradient``, with both differentiable in ``parameters``, which must require grad."""
        loss = self.differentiable_loss(parameters, condition, images, noise)
        (slope,) = torch.autograd.grad(loss, parameters, create_graph=True)
        return loss, slope

    def losses(self, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """The losses ``[B]`` of ``images`` with a module as it is."""
        return self._measured("losses", module, condition, images, noise)

    @torch.no_grad()
    def scores(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """What evaluation measures of ``images``, one each ``[B]``; lower is better (``family.metric``)."""
        self.network.load(parameters)
        return self._measured("scores", self.network.module, condition, images, noise)

    def _measured(self, member: str, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        device = self.network.device
        numbers = self.family.draw(len(images), noise) if isinstance(noise, torch.Generator) else noise
        draw = {name: value.to(device) for name, value in numbers.items()}
        condition = Condition(condition.support.to(device), condition.members.to(device))
        found = getattr(self.family, member)(module, condition, images.to(device), draw)
        return checked(self.family, member, found, (len(images),))


def _rebuilt(initial: Tensor, device: torch.device, dtype: torch.dtype, rest: dict[str, Any]) -> Problem:
    """The inverse of ``Problem.__reduce__``."""
    with torch.random.fork_rng(devices=[]):
        network = FlatNetwork(rest["family"].build(), device, dtype)
    network.initial.copy_(initial)
    network.load(initial.to(device))
    return Problem(network=network, **rest)


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

    @staticmethod
    def of(problem: Problem, policy: Policy, start: Tensor, support: Tensor) -> Inner:
        """Adapt from ``start [P]`` to ``support [K, C, H, W]``."""
        place = problem.sorter.place(support) if problem.sorter else None
        return Inner(problem, policy, support, start, place)

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
        if not (self.policy.wants_halves(step) and count > 1):
            return [Look(phi, condition, condition.support.repeat_interleave(draws, dim=0), draw)]

        def look(rows: Tensor) -> Look:
            """Some of the support images, each conditioned on all the others."""
            images = condition.support[rows].repeat_interleave(draws, dim=0)
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

    Each step takes the mean loss over ``K * draws`` noisy copies of the support images, each conditioned on the
    *other* support images or some of them (``withheld``), and hands its gradient to the policy. A policy may ask
    for the gradients of two halves of the support set apart: how far they agree says how much of what they ask for
    is of the class and how much of the single image. Both halves share one draw of noise, so that their mean is the
    gradient of the whole set. A policy that solves for the parameters gets the images instead. Once a policy has
    finished, the parameters stay and nothing more is computed. ``parameters`` is not changed.
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
