"""The loss that adaptation is judged by: at which inner steps, with which weights, in which noise."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from metagen.generators.family import Condition
from metagen.problem import Look, Problem
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class QueryOptions(Strict):
    query_at: dict[int, float] = Field(default={0: 1.0, 5: 1.0, 10: 1.0})
    """Weight of the query loss after so many inner steps; step 0 keeps the starting point good by itself."""
    query_draws: int = Field(4, ge=1)
    """Noise draws for each query image: the inner product of this gradient with each inner direction is what
    step sizes learn from, and a few more draws make it far less noisy."""

    @model_validator(mode="after")
    def _weights(self) -> QueryOptions:
        if not self.query_at or any(k < 0 or w < 0 for k, w in self.query_at.items()):
            raise ValueError("query_at: give inner steps >= 0 with weights >= 0, such as {0: 1, 5: 1}")
        if sum(self.query_at.values()) <= 0:
            raise ValueError("query_at: at least one weight must be above 0")
        return self

    @property
    def weights(self) -> dict[int, float]:
        """The weights by number of inner steps, in order, with sum 1."""
        total = sum(self.query_at.values())
        return {k: w / total for k, w in sorted(self.query_at.items())}


class Query:
    """The query loss of one episode.

    Every look of an episode uses the same noise: what changes along the path is phi alone. It is drawn from a stream of
    its own, so that adaptation is not judged by the noise that it was fitted to.
    """

    def __init__(self, problem: Problem, episode: Episode, draws: int, rng: torch.Generator) -> None:
        self.problem = problem
        self.condition = Condition.of_tasks(episode.support[None])
        self.images = episode.query.repeat_interleave(draws, dim=0)
        seed = int(torch.randint(2**62, (), generator=replayed(rng.get_state())))  # and rng stays where it is
        self.noise = problem.family.draw(len(self.images), torch.Generator().manual_seed(seed))

    def look(self, phi: Tensor) -> Look:
        """What ``gradient`` asks for at ``phi [P]``."""
        return Look(phi, self.condition, self.images, self.noise)

    def gradient(self, phi: Tensor) -> tuple[float, Tensor]:
        """Mean loss and its gradient ``[P]`` at ``phi [P]``."""
        return self.problem.gradient(*self.look(phi))

    def loss(self, phi: Tensor) -> float:
        """Mean loss at ``phi [P]``."""
        return float(self.problem.loss(*self.look(phi)).mean())

    def differentiable_loss(self, phi: Tensor) -> Tensor:
        """Mean loss, differentiable in ``phi [P]``."""
        return self.problem.differentiable_loss(*self.look(phi))


def replayed(state: Tensor) -> torch.Generator:
    """A generator that draws again what followed when its state was ``state``."""
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def add(metrics: dict[str, float], name: str, value: float) -> None:
    """Add to a metric, from 0."""
    metrics[name] = metrics.get(name, 0.0) + value
