"""First-order MAML with a multi-step loss (Finn et al. 2017, arXiv:1703.03400, section 5.2; the multi-step
loss of MAML++, Antoniou et al. 2019, arXiv:1810.09502, section 4), and step sizes learned beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from metagen.adapt import adapt_all
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, QueryOptions, add
from metagen.policies.policy import Policy, Run, hypergradient
from metagen.problem import Problem
from metagen.tasks.episodes import Episode


class FomamlOptions(QueryOptions):
    equal_votes: bool = False
    """Scale each task's hypergradient to length 1, so that every task has as much of a say in the policy. Where some
    are shifted, one far from the others may gain many times as much from large steps as most gain from any."""


class Fomaml:
    """``sum_k w_k grad L_Q(phi_k)``, as if ``d phi_k / d theta`` were the identity."""

    Options = FomamlOptions
    needs = Needs(gradient_steps=True)
    together = True

    def __init__(self, options: FomamlOptions) -> None:
        self.weights, self.query_draws = options.weights, options.query_draws
        self.steps, self.equal_votes = max(self.weights), options.equal_votes

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
        share = 1 / len(episodes)
        for group in problem.groups(episodes, rngs):
            runs = [Run(policy_vector, problem.network.layers, traced=True) for _ in group.episodes]
            queries = [Query(problem, episode, self.query_draws, rng) for episode, rng in zip(*group, strict=True)]
            slopes: list[list[tuple[int, Tensor]]] = [[] for _ in runs]
            starts, supports = [theta] * len(runs), [episode.support for episode in group.episodes]
            for now in adapt_all(problem, starts, supports, policy, runs, self.steps, group.rngs):
                k = now[0].taken
                if k in self.weights:
                    looks = [query.look(step.parameters) for query, step in zip(queries, now, strict=True)]
                    for mine, (loss, slope) in zip(slopes, problem.gradients(looks), strict=True):
                        gradient.add_(slope, alpha=share * self.weights[k])
                        # What is not adapted stays where it is, whatever the policy makes of it.
                        moved = slope if problem.adapted is None else slope * problem.adapted
                        mine.append((k, self.weights[k] * moved))
                        add(metrics, f"query_loss/{k}", share * loss)
                        add(metrics, "loss", share * self.weights[k] * loss)
                if k == self.steps and self.steps:
                    for step in now:
                        add(metrics, "support_loss", share * step.support_loss)
            for run, mine in zip(runs, slopes, strict=True):
                vote = hypergradient(policy, run, mine)
                policy_gradient += share * (F.normalize(vote, dim=0) if self.equal_votes else vote)
        return Estimate(gradient, policy_gradient, metrics)
