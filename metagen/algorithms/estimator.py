"""What every estimator of a meta-gradient is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metagen.adapt import Problem
from metagen.policies.policy import Policy
from metagen.tasks.episodes import Episode


@dataclass(frozen=True)
class Estimate:
    """A meta-gradient ``[P]``, a policy update ``[G]`` and what was measured on the way."""

    gradient: Tensor
    policy_gradient: Tensor
    metrics: dict[str, float]


class Estimator(Protocol):
    """One way to estimate how the meta-parameters should move, from a few episodes."""

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        """The mean over ``episodes``, each with its own generator of noise."""
        ...
