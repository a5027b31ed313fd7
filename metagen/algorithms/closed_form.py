"""Closed-form meta-learning: backpropagation through a ridge regression of the last layer (Bertinetto et al. 2019,
arXiv:1805.08136, section 3.2; here of a generator's velocity on basis fields)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import add
from metagen.generators.family import Condition
from metagen.policies.policy import Policy
from metagen.problem import Problem
from metagen.regression import loaded_weights, regression
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class ClosedFormOptions(Strict):
    query_draws: int = Field(4, ge=1)
    """Noise draws for each query image."""


class ClosedForm:
    """The exact gradient of ``L_Q(c*)`` in theta and in ``log lambda``, with::

        c* = (sum G'G + lambda I)^-1 (sum G'y + lambda c_0)

    the one step of the policy ``ridge``. Theta is learned as a whole: the last layer as ``c_0``, all the rest
    through the basis fields ``G`` of support and query images. First order: no derivative of a derivative.
    """

    Options = ClosedFormOptions
    needs = Needs(solver=True)

    def __init__(self, options: ClosedFormOptions) -> None:
        self.query_draws = options.query_draws

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        gradient, policy_gradient = torch.zeros_like(theta), torch.zeros_like(policy_vector)
        metrics: dict[str, float] = {}
        for episode, rng in zip(episodes, rngs, strict=True):
            problem.network.load(theta)
            log_strength, c_0 = policy_vector.detach().clone().requires_grad_(), loaded_weights(problem)
            condition = Condition.withholding(episode.support, problem.withheld, rng)
            shown = regression(problem, condition, condition.support.repeat_interleave(problem.draws, dim=0), rng)
            c = shown.normal().solve(c_0, log_strength.double().exp())
            asked = Condition.of_tasks(episode.support[None])
            query = regression(problem, asked, episode.query.repeat_interleave(self.query_draws, dim=0), rng)
            loss = query.loss(c)
            gradient += problem.network.gradient(loss, theta.dtype) / len(episodes)
            assert log_strength.grad is not None
            policy_gradient += log_strength.grad / len(episodes)
            with torch.no_grad():
                found = {
                    "loss": loss.detach(),
                    "query_loss/0": query.loss(c_0),
                    "query_loss/1": loss.detach(),
                    "support_loss": shown.loss(c_0),
                }
            for name, value in found.items():
                add(metrics, name, float(value) / len(episodes))
        return Estimate(gradient, policy_gradient, metrics)
