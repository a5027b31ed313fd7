"""Evolution strategies over whole episodes (Salimans et al. 2017, arXiv:1703.03864, section 2; one perturbation for
the whole unroll and antithetic pairs in the same noise, as in NRES, Li et al. 2023, arXiv:2304.12180)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from metagen.adapt import adapt
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, QueryOptions, add, replayed
from metagen.policies.policy import Policy, Run
from metagen.probes import perturbation
from metagen.problem import Problem
from metagen.records import Probe
from metagen.tasks.episodes import Episode


class EvolutionOptions(QueryOptions):
    sigma: float = Field(0.01, ge=0)
    """Standard deviation of the perturbation of theta; 0 leaves theta alone, as it should be with
    ``outer.freeze_generator``."""
    policy_sigma: float = Field(0.1, ge=0)
    """Standard deviation of the perturbation of the policy's parameters; 0 leaves them alone."""
    pairs: int = Field(1, ge=1)
    """Antithetic pairs an episode."""

    @model_validator(mode="after")
    def _something_moves(self) -> EvolutionOptions:
        if not (self.sigma or self.policy_sigma):
            raise ValueError("sigma: sigma and policy_sigma are both 0, nothing is perturbed: raise one")
        return self


class Evolution:
    """The gradient of ``sum_k w_k L_Q(phi_k)`` smoothed by Gaussian noise on theta and the policy's parameters.

    Needs no derivative beyond the inner loop's own. An actor reports a seed and two losses for each pair: the
    same episode and the same noise on both sides, so that what differs is the perturbation alone.
    """

    Options = EvolutionOptions
    needs = Needs()

    def __init__(self, options: EvolutionOptions) -> None:
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
        sigma, policy_sigma = self.options.sigma, self.options.policy_sigma
        metrics: dict[str, float] = {}
        probes = []
        share = 1 / (2 * len(episodes) * self.options.pairs)
        for episode, rng in zip(episodes, rngs, strict=True):
            for _ in range(self.options.pairs):
                seed = int(torch.randint(2**62, (), generator=rng))
                direction, policy_direction = perturbation(seed, len(theta), len(policy_vector))
                move, policy_move = sigma * direction.to(theta), policy_sigma * policy_direction.to(policy_vector)
                noise, losses = rng.get_state(), []
                for sign in (1, -1):
                    rng = replayed(noise)
                    moved, vector = theta + sign * move, policy_vector + sign * policy_move
                    losses.append(self._loss(problem, moved, policy, vector, episode, rng, metrics, share))
                probes.append(Probe(seed, sigma, policy_sigma, *losses))
        return Estimate(torch.zeros(0), torch.zeros(0), metrics, tuple(probes))

    def _loss(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        vector: Tensor,
        episode: Episode,
        rng: torch.Generator,
        metrics: dict[str, float],
        share: float,
    ) -> float:
        """The weighted query loss of one adaptation."""
        query, total = Query(problem, episode, self.options.query_draws, rng), 0.0
        run = Run(vector, problem.network.layers)
        for step in adapt(problem, theta, episode.support, policy, run, self.steps, rng):
            if step.taken in self.weights:
                loss = query.loss(step.parameters)
                total += self.weights[step.taken] * loss
                add(metrics, f"query_loss/{step.taken}", share * loss)
        add(metrics, "loss", share * total)
        return total
