"""First-order MAML with a multi-step loss (Finn et al. 2017, arXiv:1703.03400, section 5.2; the multi-step
loss of MAML++, Antoniou et al. 2019, arXiv:1810.09502, section 4), and step sizes learned beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from metagen.adapt import Problem, adapt
from metagen.algorithms.estimator import Estimate
from metagen.generators.family import Condition
from metagen.policies.policy import Policy, Run
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class FomamlOptions(Strict):
    query_at: dict[int, float] = Field(default={0: 1.0, 5: 1.0, 10: 1.0})
    """Weight of the query loss after so many inner steps; step 0 keeps the starting point good by itself."""
    query_draws: int = Field(4, ge=1)
    """Noise draws for each query image: the inner product of this gradient with each inner direction is what
    step sizes learn from, and a few more draws make it far less noisy."""

    @model_validator(mode="after")
    def _weights(self) -> FomamlOptions:
        if not self.query_at or any(k < 0 or w < 0 for k, w in self.query_at.items()):
            raise ValueError("query_at: give inner steps >= 0 with weights >= 0, such as {0: 1, 5: 1}")
        if sum(self.query_at.values()) <= 0:
            raise ValueError("query_at: at least one weight must be above 0")
        return self


class Fomaml:
    """``sum_k w_k grad L_Q(phi_k)``, as if ``d phi_k / d theta`` were the identity."""

    Options = FomamlOptions

    def __init__(self, options: FomamlOptions) -> None:
        total = sum(options.query_at.values())
        self.weights = {k: w / total for k, w in sorted(options.query_at.items())}
        self.steps = max(self.weights)
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
        metrics: dict[str, float] = {"loss": 0.0, "support_loss": 0.0}
        for episode, rng in zip(episodes, rngs, strict=True):
            run = Run(policy_vector, problem.network.layers, traced=True)
            condition = Condition.of_tasks(episode.support[None])
            images = episode.query.repeat_interleave(self.query_draws, dim=0)
            # Every query of an episode uses the same noise: what changes along the path is phi alone.
            noise = rng.get_state()
            query: list[tuple[int, Tensor]] = []
            for step in adapt(problem, theta, episode.support, policy, run, self.steps, rng):
                if step.taken in self.weights:
                    bank = torch.Generator()
                    bank.set_state(noise)
                    loss, slope = problem.gradient(step.parameters, condition, images, bank)
                    query.append((step.taken, self.weights[step.taken] * slope))
                    _add(metrics, f"query_loss/{step.taken}", loss / len(episodes))
                    _add(metrics, "loss", self.weights[step.taken] * loss / len(episodes))
                if step.taken == self.steps and self.steps:
                    _add(metrics, "support_loss", step.support_loss / len(episodes))
            for _, slope in query:
                gradient += slope / len(episodes)
            policy_gradient += policy.hypergradient(run, query) / len(episodes)
        return Estimate(gradient, policy_gradient, metrics)


def _add(metrics: dict[str, float], name: str, value: float) -> None:
    metrics[name] = metrics.get(name, 0.0) + value
