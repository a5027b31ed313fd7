"""Reptile (Nichol et al. 2018, arXiv:1803.02999): move towards where adaptation went.

FIGR (Clouatre & Demers 2019, arXiv:1901.02199) used it for few-shot image generation with GANs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.adapt import Problem, adapt
from metagen.algorithms.estimator import Estimate, Needs
from metagen.policies.policy import Policy, Run
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class ReptileOptions(Strict):
    inner_steps: int = Field(10, ge=1)


class Reptile:
    """``theta - phi_K``, with phi adapted to support and query images together, given to any outer optimiser."""

    Options = ReptileOptions
    needs = Needs(gradient_steps=True)

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
        for episode, rng in zip(episodes, rngs, strict=True):
            run = Run(policy_vector, problem.network.layers)
            images = torch.cat([episode.support, episode.query])
            for step in adapt(problem, theta, images, policy, run, self.steps, rng):
                if step.taken == 1:
                    first += step.support_loss / len(episodes)
                if step.taken == self.steps:
                    last += step.support_loss / len(episodes)
                    gradient += (theta - step.parameters) / len(episodes)
        # Reptile has no query loss; the loss on the episode's images before the first step stands for it.
        metrics = {"loss": first, "query_loss/0": first, "support_loss": last}
        return Estimate(gradient, torch.zeros_like(policy_vector), metrics)
