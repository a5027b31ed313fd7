"""What every estimator of a meta-gradient is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metagen.policies.policy import Policy
from metagen.problem import Problem
from metagen.records import Experience, Probe
from metagen.tasks.episodes import Episode


@dataclass(frozen=True)
class Estimate:
    """A meta-gradient ``[P]``, a policy update ``[G]`` and what was measured on the way.

    An estimator may give ``probes`` instead, with empty vectors: the learner makes both from them.
    """

    gradient: Tensor
    policy_gradient: Tensor
    metrics: dict[str, float]
    probes: tuple[Probe, ...] = ()
    experiences: tuple[Experience, ...] = ()
    """Beside the vectors: the learner makes a policy update of them (``policies.Explorer.improve``)."""


@dataclass(frozen=True)
class Needs:
    """What an estimator asks of the parts that it works with (``compatibility.py``)."""

    gradient_steps: bool = False
    """A policy that steps along gradients."""
    second_order: bool = False
    """A family whose gradient may be differentiated again."""
    proximal: bool = False
    """``policy.proximal`` above 0: an inner problem with a minimum."""
    policy_derivative: bool = False
    """A policy whose steps are differentiable in its parameters and in phi."""
    explorer: bool = False
    """A policy that chooses, and learns from rewards."""
    solver: bool = False
    """A policy that solves for the last layer, and a family whose loss is least squares in it."""


class Estimator(Protocol):
    """One way to estimate how the meta-parameters should move, from a few episodes.

    Its class has ``Options``, ``needs``, and ``together = True`` where it adapts to several episodes in step with each
    other (``Problem.groups``), so that they can be computed at once.
    """

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        """The mean over ``episodes``, each with its own generator of noise, at ``theta [P]`` and ``policy_vector [G]``.

        ``theta`` and ``policy_vector`` are not changed.
        """
        ...
