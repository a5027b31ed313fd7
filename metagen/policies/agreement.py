"""How far the images of a task agree on what they ask for: the feature that reveals a shift."""

from __future__ import annotations

import torch
from torch import Tensor

from metagen.flat import Layers
from metagen.policies.policy import Gradient
from metagen.policies.rules import State, safe_root

MEAN, DEVIATION = 0.0, 0.12
"""Agreement of the halves' gradients on tasks of the training distribution (decision 007), to standardise with."""
MEMORY = 0.8
"""What a step's look at the agreement still counts for a step later: once a task has been learned its images
agree on nothing more, and step sizes should fall."""


def agreement(state: State, layers: Layers, gradient: Gradient) -> Tensor:
    """``[L, 2]``: the cosine of the halves' gradients so far, a layer and overall, standardised; 0 without halves.

    What was seen is gathered in ``state``, the last few steps counting most.
    """
    if gradient.halves is not None:
        one, other = gradient.halves
        dot = layers.dot(one, other)
        lengths = safe_root(layers.dot(one, one) * layers.dot(other, other))
        whole = safe_root(one.square().sum() * other.square().sum())
        zeros = torch.zeros_like(dot)
        state["dot"] = MEMORY * state.get("dot", zeros) + dot
        state["lengths"] = MEMORY * state.get("lengths", zeros) + lengths
        state["whole"] = MEMORY * state.get("whole", zeros) + whole
        state["looks"] = MEMORY * state.get("looks", zeros) + 1
    if "looks" not in state:
        return gradient.mean.new_zeros(layers.count, 2)
    local = state["dot"] / state["lengths"]  # never 0 / 0: see safe_root
    overall = state["dot"].sum() / state["whole"]
    trust = state["looks"] / (state["looks"] + 1)  # one look is half chance: shrink it towards the mean
    standard = (torch.stack([local, overall], dim=1) - MEAN) / DEVIATION
    return trust[:, None] * standard.clamp(-3, 3)
