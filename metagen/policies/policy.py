"""``g``: the optimisation strategy. What every policy is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from metagen.flat import Layers, Layout
from metagen.policies.rules import State
from metagen.records import Experience
from metagen.tasks.categories import Place

if TYPE_CHECKING:
    from metagen.generators.family import Condition
    from metagen.problem import Problem


class Choice(NamedTuple):
    """What a policy that chooses chose for a task, on what grounds, and how likely that was."""

    features: tuple[float, ...]
    action: tuple[float, ...]
    log_probability: float


@dataclass
class Run:
    """What a policy carries through one adaptation: rule state, and a trace for learning from it."""

    vector: Tensor
    """The policy's own parameters ``[G]``."""
    layers: Layers
    """The layers of the generator's parameters ``[P]``."""
    traced: bool = False
    """Keep what ``hypergradient`` needs. Steps themselves are then not differentiable in ``vector``."""
    state: State = field(default_factory=dict)
    directions: list[Tensor] = field(default_factory=list)
    """Directions ``[P]`` of the steps taken, if traced."""
    log_sizes: list[Tensor] = field(default_factory=list)
    """Log step sizes ``[L]`` of the steps taken; if traced differentiable in ``vector``."""
    rule: str = ""
    """The update rule of the steps taken; for ``metagen policy show``."""
    rng: torch.Generator | None = None
    """What a policy that chooses draws its choice with; None for the mode of its distribution."""
    choice: Choice | None = None
    """What it chose."""
    finished: bool = False
    """The policy has taken all the steps that it wants to: the parameters stay as they are."""

    def __post_init__(self) -> None:
        if self.traced:
            self.vector = self.vector.detach().clone().requires_grad_()

    def took(self, rule: str, log_sizes: Tensor) -> None:
        """Note a step: its rule and its log step sizes ``[L]``, whose graph is kept only if traced."""
        self.rule = rule
        self.log_sizes.append(log_sizes if self.traced else log_sizes.detach())


class Gradient(NamedTuple):
    """What the inner loop shows a policy at a step."""

    mean: Tensor
    """The gradient of the inner loss ``[P]``: of the mean loss of the support set, and of the pull to the start where
    ``policy.proximal`` asks for one; 0 for parameters that are not adapted."""
    loss: Tensor
    """The mean loss of the support set, a scalar."""
    support: Tensor
    """The support set ``[K, C, H, W]``."""
    halves: tuple[Tensor, Tensor] | None = None
    """The gradients ``[P]`` of the loss of two halves of the support set, where the policy wants them and there are two
    images or more."""
    place: Place | None = None
    """Where the task lies among those of training, where tasks are sorted."""


class Policy(Protocol):
    """An optimisation strategy: a rule, step sizes, and how they are learned."""

    def initial(self, layout: Layout) -> Tensor:
        """The policy's parameters ``[G]`` at the start of training; empty for one that does not learn."""
        ...

    def wants_halves(self, step: int) -> bool:
        """Whether the gradients of two halves of the support set are of use at inner step ``step``."""
        ...

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        """The parameters ``[P]`` after inner step ``step`` (from 0) along the gradient.

        ``run.took`` notes rule and step sizes for ``metagen policy show``. Writes into no tensor that it is given or
        that ``run.state`` holds: autograd may go through the step, and the state before it may have been kept.
        """
        ...

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        """``d (weighted query loss) / d vector``: ``[G]``, from a traced run.

        ``query`` holds pairs of a number of steps taken ``k`` and the (weighted) gradient ``[P]`` of the query
        loss there.
        """
        ...

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        """What is worth a histogram in the log, by name; log10 of step sizes."""
        ...


class Improvement(NamedTuple):
    """What a policy that chooses made of experiences: a gradient ``[G]`` to descend, and what was measured."""

    gradient: Tensor
    metrics: dict[str, float]
    samples: Mapping[str, tuple[float, ...]]
    """What is worth a histogram of this step."""


@runtime_checkable
class Explorer(Policy, Protocol):
    """A policy that chooses for each task, and learns from the rewards of its choices.

    Where ``run.rng`` is set, ``step`` draws its choice with it and leaves it in ``run.choice``.
    """

    def improve(self, vector: Tensor, experiences: Sequence[Experience]) -> Improvement:
        """How the policy's parameters ``[G]`` should move, from the experiences of one outer step. Pure."""
        ...

    def cost(self, action: Sequence[float]) -> float:
        """How dear an action is, from 0 to 1, beside what it gains."""
        ...


@runtime_checkable
class Solver(Policy, Protocol):
    """A policy that does not step along gradients but solves for the adapted parameters from the images."""

    def solve(
        self, run: Run, problem: Problem, parameters: Tensor, condition: Condition, rng: torch.Generator
    ) -> tuple[Tensor, float]:
        """The parameters ``[P]`` after one more look at the support set, and its loss before."""
        ...


def hypergradient(policy: Policy, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
    """What ``policy`` says of itself, ``[G]``; raises ``ValueError`` for another length: a single number would be added
    everywhere."""
    found = policy.hypergradient(run, query)
    if found.shape != run.vector.shape:
        wanted = f"where {[*run.vector.shape]} is needed"
        raise ValueError(f"policy {type(policy).__name__} gave a hypergradient {[*found.shape]} {wanted}")
    return found


def later(query: Sequence[tuple[int, Tensor]], steps: int) -> Iterator[tuple[int, Tensor]]:
    """From the last of ``steps`` back to the first: step ``j``, and the sum ``[P]`` of the query gradients taken
    after it; steps with none after them are left out. ``query`` is that of ``Policy.hypergradient``."""
    waiting = sorted(query, key=lambda pair: pair[0])
    total: Tensor | None = None
    for j in reversed(range(steps)):
        while waiting and waiting[-1][0] > j:
            slope = waiting.pop()[1]
            total = slope if total is None else total + slope
        if total is not None:
            yield j, total


def sized_step(run: Run, rule: str, parameters: Tensor, direction: Tensor, log_sizes: Tensor) -> Tensor:
    """The parameters ``[P]`` after a step along ``direction`` ``[P]`` by ``exp(log_sizes)`` ``[L]``, a size a layer; a
    traced ``run`` keeps what ``one_pass`` needs of it."""
    run.took(rule, log_sizes)
    if run.traced:
        run.directions.append(direction)
        log_sizes = log_sizes.detach()
    return torch.addcmul(parameters, run.layers.spread(log_sizes.exp()), direction, value=-1)


def one_pass(run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The hypergradient ``[G]`` of step sizes a layer, with the Jacobians of later steps dropped::

        d L / d log_size[l, j] ~ - size[l, j] * sum_{k > j} < w_k grad L_Q(phi_k), direction_j >_l

    from what a traced ``run`` holds. Exact for one inner step, and where no step changes later gradients.
    """
    surrogate = run.vector.new_zeros(())
    for j, total in later(query, len(run.directions)):
        sizes = run.log_sizes[j]
        slopes = -sizes.detach().exp() * run.layers.dot(total, run.directions[j])
        surrogate = surrogate + (sizes * slopes).sum()
    if not surrogate.requires_grad:  # no step before any query
        return torch.zeros_like(run.vector)
    (slope,) = torch.autograd.grad(surrogate, run.vector)
    return slope
