"""Rewards for the choices of a policy that chooses, beside a first-order meta-gradient along the way that they led
(the learner's update is PPO: ``policies/ppo.py``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from metagen.adapt import adapt
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, QueryOptions, add, replayed
from metagen.errors import UserError
from metagen.policies.policy import Choice, Explorer, Policy, Run
from metagen.problem import Problem
from metagen.records import Experience
from metagen.tasks.episodes import Episode


class PpoEstimatorOptions(QueryOptions):
    query_at: dict[int, float] = Field(default={0: 1.0, 5: 1.0, 10: 1.0, 20: 1.0})
    """Weight of the query loss after so many inner steps. Rewards are taken at those above 0: as far as the policy may
    choose to go."""
    rollouts: int = Field(1, ge=1)
    """Choices drawn for each episode, in the same noise."""
    cost: float = Field(0.0, ge=0)
    """What all the steps that can be chosen cost, in units of the reward."""
    reward: Literal["ratio", "difference"] = "ratio"
    """How two losses compare: by the logarithm of their ratio, or where losses may be negative by difference."""
    meta_gradient: bool = True
    """Report a meta-gradient as well; with ``outer.freeze_generator`` false saves its backward passes."""

    @model_validator(mode="after")
    def _adapts(self) -> PpoEstimatorOptions:
        if not any(weight for k, weight in self.query_at.items() if k):
            raise ValueError("query_at: give a step above 0 a weight above 0: that is where the reward is taken")
        return self


class Ppo:
    """An experience for each choice, with reward::

        R = log L_Q(theta) - sum_{k>0} w_k log L_Q(phi_k) / sum_{k>0} w_k - cost * K / K_max

    The baseline is the loss of the same query in the same noise without adaptation; the choices of one episode share
    all noise but their own. The meta-gradient is that of ``fomaml``, averaged over the choices: theta learns to be
    a good start for what the policy does.
    """

    Options = PpoEstimatorOptions
    needs = Needs(gradient_steps=True, explorer=True)

    def __init__(self, options: PpoEstimatorOptions) -> None:
        self.options, self.weights = options, options.weights
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
        assert isinstance(policy, Explorer)
        gradient, share = torch.zeros_like(theta), 1 / (len(episodes) * self.options.rollouts)
        metrics: dict[str, float] = {}
        experiences = []
        for episode, rng in zip(episodes, rngs, strict=True):
            query = Query(problem, episode, self.options.query_draws, rng)
            noise, chances = rng.get_state(), torch.Generator()
            # The first number is the seed of the query's noise: choices have a stream of their own too.
            chances.manual_seed(int(torch.randint(2**62, (2,), generator=rng)[1]))
            start = self._look(query, theta)
            for _ in range(self.options.rollouts):
                run = Run(policy_vector, problem.network.layers, rng=chances)
                losses, phi, look = {0: start[0]}, theta, start
                for step in adapt(problem, theta, episode.support, policy, run, self.steps, replayed(noise)):
                    if step.taken not in self.weights:
                        continue
                    if step.parameters is not phi:  # a policy that has finished leaves them as they are
                        phi, look = step.parameters, self._look(query, step.parameters)
                    losses[step.taken], weight = look[0], self.weights[step.taken]
                    gradient.add_(look[1], alpha=share * weight)
                    add(metrics, f"query_loss/{step.taken}", share * look[0])
                    add(metrics, "loss", share * weight * look[0])
                assert run.choice is not None
                experiences.append(self._experience(run.choice, losses, policy))
        return Estimate(gradient, torch.zeros_like(policy_vector), metrics, experiences=tuple(experiences))

    def _look(self, query: Query, phi: Tensor) -> tuple[float, Tensor]:
        """The query loss at ``phi [P]`` and its gradient ``[P]``, zeros where none is asked for."""
        return query.gradient(phi) if self.options.meta_gradient else (query.loss(phi), torch.zeros_like(phi))

    def _experience(self, choice: Choice, losses: dict[int, float], policy: Explorer) -> Experience:
        later = {k: weight for k, weight in self.weights.items() if k}
        gain = sum(weight * (self._level(losses[0]) - self._level(losses[k])) for k, weight in later.items())
        reward = gain / sum(later.values()) - self.options.cost * policy.cost(choice.action)
        return Experience(*choice, reward)

    def _level(self, loss: float) -> float:
        if self.options.reward == "difference" or not math.isfinite(loss):
            return loss  # a loss that is not finite makes the reward so, which the learner counts and leaves out
        if loss <= 0:
            raise UserError(
                f"ppo: a query loss of {loss:.4g} has no logarithm: set the phase's options.reward=difference"
            )
        return math.log(loss)
