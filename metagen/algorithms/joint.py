"""Joint episodic training: no inner loop, every episode of the item in one batch.

The gradient of the query loss at theta itself, each query image conditioned on its task's support set. It is
pretraining for the other estimators, and the baseline that meta-learning must beat (Gao & Sener 2020,
arXiv:2010.12916; Miranda et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.algorithms.estimator import Estimate, Needs
from metagen.generators.family import Condition
from metagen.policies.policy import Policy
from metagen.problem import Problem
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class JointOptions(Strict):
    drop_condition: float = Field(0.1, ge=0, lt=1)
    """Share of tasks trained without their support set, so that samples can be guided towards it."""


class Joint:
    """``grad_theta mean L_Q(theta)``."""

    Options = JointOptions
    needs = Needs()

    def __init__(self, options: JointOptions) -> None:
        self.drop_condition = options.drop_condition

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        condition = Condition.of_tasks(torch.stack([episode.support for episode in episodes]))
        kept = torch.rand(len(episodes), 1, generator=rngs[0]) >= self.drop_condition
        condition = Condition(condition.support, condition.members * kept)
        images = torch.cat([episode.query for episode in episodes])
        loss, gradient = problem.gradient(theta, condition, images, rngs[0])
        return Estimate(gradient, torch.zeros_like(policy_vector), {"loss": loss, "query_loss/0": loss})
