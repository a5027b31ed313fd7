"""Small networks inside a policy's one vector of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


def parts_of(vector: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """``vector [G]`` cut into named tensors, as views."""
    pieces = vector.split([math.prod(shape) for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def hidden_layer(seen: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """``tanh(W f / sqrt(F) + b) / sqrt(H)``: ``[N, H]`` from ``seen [N, F]``.

    Weights are of size 1 and scaled here, so that a step of Adam, which moves all of them as far, moves what comes
    out as far whatever the widths (Jacot et al. 2018, arXiv:1806.07572).
    """
    return torch.tanh(torch.addmm(bias, seen, weights.T, alpha=weights.shape[1] ** -0.5)) / weights.shape[0] ** 0.5
