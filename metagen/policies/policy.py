"""``g``: the optimisation strategy. What every policy is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from metagen.flat import Layers, Layout
from metagen.policies.rules import State

if TYPE_CHECKING:
    from metagen.adapt import Problem
    from metagen.generators.family import Condition


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
    """Log step sizes ``[L]`` of the steps taken, differentiable in ``vector``, if traced."""

    def __post_init__(self) -> None:
        if self.traced:
            self.vector = self.vector.detach().clone().requires_grad_()


class Gradient(NamedTuple):
    """The support loss's gradient ``[P]``, and where the policy asked for it those of two halves of the set."""

    mean: Tensor
    halves: tuple[Tensor, Tensor] | None = None


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

        Writes into no tensor that it is given or that ``run.state`` holds: autograd may go through the step, and
        the state before it may have been kept.
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


@runtime_checkable
class Solver(Policy, Protocol):
    """A policy that does not step along gradients but solves for the adapted parameters from the images."""

    def solve(
        self, run: Run, problem: Problem, parameters: Tensor, condition: Condition, rng: torch.Generator
    ) -> tuple[Tensor, float]:
        """The parameters ``[P]`` after one more look at the support set, and its loss before."""
        ...
