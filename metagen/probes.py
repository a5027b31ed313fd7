"""Directions named by a seed: what an actor perturbs along, the learner draws again instead of receiving it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metagen.records import Probe, WorkResult, borrowed
from metagen.seeding import torch_generator


def perturbation(seed: int, parameters: int, policy: int) -> tuple[Tensor, Tensor]:
    """Standard normal directions ``[P]`` and ``[G]``, float32 on the CPU: the same wherever they are drawn."""
    rng = torch_generator(seed, "perturbation")
    return torch.randn(parameters, generator=rng), torch.randn(policy, generator=rng)


def slopes(probes: Sequence[Probe], parameters: int, policy: int) -> tuple[Tensor, Tensor]:
    """Gradients ``[P]`` and ``[G]`` of the loss smoothed by the perturbation: the mean over probes of::

        (L(theta + s e) - L(theta - s e)) / (2 s) * e,     e ~ N(0, I)

    Antithetic evolution strategies (Salimans et al. 2017, arXiv:1703.03864, section 2).
    """
    gradient, policy_gradient = torch.zeros(parameters), torch.zeros(policy)
    for probe in probes:
        direction, policy_direction = perturbation(probe.seed, parameters, policy)
        difference = (probe.above - probe.below) / (2 * len(probes))
        if probe.sigma:
            gradient.add_(direction, alpha=difference / probe.sigma)
        if probe.policy_sigma:
            policy_gradient.add_(policy_direction, alpha=difference / probe.policy_sigma)
    return gradient, policy_gradient


def reported(result: WorkResult, parameters: int, policy: int) -> tuple[Tensor, Tensor]:
    """The meta-gradient ``[P]`` and the policy update ``[G]`` of a result, however it reports them; only to be read."""
    if result.probes:
        return slopes(result.probes, parameters, policy)
    return borrowed(result.gradient), borrowed(result.policy_update)
