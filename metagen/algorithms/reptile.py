"""Reptile (Nichol et al. 2018, arXiv:1803.02999): move towards where adaptation went.

FIGR (Clouatre & Demers 2019, arXiv:1901.02199) used it for few-shot image generation with GANs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.adapt import adapt_all
from metagen.algorithms.estimator import Estimate, Needs
from metagen.policies.policy import Policy, Run
from metagen.problem import Problem
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class ReptileOptions(Strict):
    inner_steps: int = Field(10, ge=1)


class Reptile:
    """``theta - phi_K``, with phi adapted to support and query images together, given to any outer optimiser."""

    Options = ReptileOptions
    needs = Needs(gradient_steps=True)
    together = True

    def __init__(self, options: ReptileOptions) -> None:
        self.steps = options.inner_steps

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        gradient = torch.zeros_like(theta)
        first = last = 0.0
        share = 1 / len(episodes)
        for group in problem.groups(episodes, rngs):
            runs = [Run(policy_vector, problem.network.layers) for _ in group.episodes]
            starts = [theta] * len(runs)
            images = [torch.cat([episode.support, episode.query]) for episode in group.episodes]
            for now in adapt_all(problem, starts, images, policy, runs, self.steps, group.rngs):
                for step in now:
                    if step.taken == 1:
                        first += share * step.support_loss
                    if step.taken == self.steps:
                        last += share * step.support_loss
                        gradient += share * (theta - step.parameters)
        # Reptile has no query loss; the loss on the episode's images before the first step stands for it.
        metrics = {"loss": first, "query_loss/0": first, "support_loss": last}
        return Estimate(gradient, torch.zeros_like(policy_vector), metrics)
