"""What tests of estimators share: episodes of the toy problem, and one call for every estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.algorithms import Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.policies import Policy
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.steps import LearnedSteps, LearnedStepsOptions
from metagen.problem import Problem
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode


@pytest.fixture(scope="session")
def episodes() -> Callable[..., list[Episode]]:
    """Random 4x4 episodes."""

    def make(count: int = 1, shots: int = 3, queries: int = 4) -> list[Episode]:
        pictures = torch.randn(count, shots + queries, 1, 4, 4, generator=torch_generator("episodes"))
        return [Episode(p[:shots], p[shots:], f"class{i}", i) for i, p in enumerate(pictures)]

    return make


@pytest.fixture(scope="session")
def estimate() -> Callable[..., Estimate]:
    """An estimate in float64, with noise of its own for every episode."""

    def call(
        estimator: Any, problem: Problem, theta: Tensor, episodes: list[Episode], policy: Policy, vector: Tensor
    ) -> Estimate:
        rngs = [torch_generator("noise", index) for index in range(len(episodes))]
        return estimator.estimate(problem, theta, policy, vector, episodes, rngs)

    return call


@pytest.fixture(scope="session")
def slope_of_the_loss(estimate: Any) -> Callable[..., Tensor]:
    """Finite differences of ``sum_k w_k L_Q(phi_k)``, as fomaml reports it, in theta or in the policy's vector."""

    def differences(
        problem: Problem,
        theta: Tensor,
        episodes: list[Episode],
        policy: Policy,
        vector: Tensor,
        query_at: dict[int, float],
        indices: range,
        of: str = "theta",
        step: float = 1e-5,
    ) -> Tensor:
        estimator, values = Fomaml(FomamlOptions(query_at=query_at, query_draws=2)), []
        for index in indices:
            ends = []
            for sign in (1, -1):
                point = {"theta": theta.clone(), "vector": vector.clone()}
                point[of][index] += sign * step
                found = estimate(estimator, problem, point["theta"], episodes, policy, point["vector"])
                ends.append(found.metrics["loss"])
            values.append((ends[0] - ends[1]) / (2 * step))
        return torch.tensor(values, dtype=torch.float64)

    return differences


@pytest.fixture(scope="session")
def policy_of() -> Callable[..., Policy]:
    """``policy_of("adam", learned=True)``: a fixed rule, or step sizes learned with features of the task."""

    def make(rule: str, learned: bool, step_size: float = 0.02) -> Policy:
        if learned:
            return LearnedSteps(LearnedStepsOptions(rule=rule, step_size=step_size, horizon=3))
        return Fixed(FixedOptions(rule=rule, step_size=step_size))

    return make
