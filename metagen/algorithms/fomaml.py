"""First-order MAML with a multi-step loss (Finn et al. 2017, arXiv:1703.03400, section 5.2; the multi-step
loss of MAML++, Antoniou et al. 2019, arXiv:1810.09502, section 4), and step sizes learned beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metagen.adapt import Problem, adapt
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, QueryOptions, add
from metagen.policies.policy import Policy, Run
from metagen.tasks.episodes import Episode


class Fomaml:
    """``sum_k w_k grad L_Q(phi_k)``, as if ``d phi_k / d theta`` were the identity."""

    Options = QueryOptions
    needs = Needs(gradient_steps=True)

    def __init__(self, options: QueryOptions) -> None:
        self.weights, self.query_draws = options.weights, options.query_draws
        self.steps = max(self.weights)

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
        metrics: dict[str, float] = {"loss": 0.0, "support_loss": 0.0}
        for episode, rng in zip(episodes, rngs, strict=True):
            run = Run(policy_vector, problem.network.layers, traced=True)
            query = Query(problem, episode, self.query_draws, rng)
            slopes: list[tuple[int, Tensor]] = []
            for step in adapt(problem, theta, episode.support, policy, run, self.steps, rng):
                if step.taken in self.weights:
                    loss, slope = query.gradient(step.parameters)
                    slopes.append((step.taken, self.weights[step.taken] * slope))
                    add(metrics, f"query_loss/{step.taken}", loss / len(episodes))
                    add(metrics, "loss", self.weights[step.taken] * loss / len(episodes))
                if step.taken == self.steps and self.steps:
                    add(metrics, "support_loss", step.support_loss / len(episodes))
            for _, slope in slopes:
                gradient += slope / len(episodes)
            policy_gradient += policy.hypergradient(run, slopes) / len(episodes)
        return Estimate(gradient, policy_gradient, metrics)
