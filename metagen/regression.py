"""A generator's loss as a least-squares problem in its last layer, and the ridge solution of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from metagen.generators.family import Condition
    from metagen.problem import Problem

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Regression:
    """``mean_i L_i = sum_n weights[n] |features[n] c - targets[n]|^2`` in float64, for the last layer's weights
    ``c [B, O]``, the bias as a last row."""

    features: Tensor
    """``[n, B]``: basis fields, differentiable in the rest of the network."""
    targets: Tensor
    """``[n, O]``."""
    weights: Tensor
    """``[n]``."""

    def loss(self, c: Tensor) -> Tensor:
        """The mean loss of the images with last-layer weights ``c [B, O]``."""
        return (self.weights * (self.features @ c - self.targets).square().sum(1)).sum()

    def normal(self) -> Normal:
        """What a solution needs to know."""
        weighted = self.features.T * self.weights
        return Normal(weighted @ self.features, weighted @ self.targets)


@dataclass(frozen=True)
class Normal:
    """Normal equations: ``gram = sum G'G [B, B]`` and ``right = sum G'y [B, O]``."""

    gram: Tensor
    right: Tensor

    def solve(self, start: Tensor, strength: Tensor) -> Tensor:
        """``argmin_c L(c) + strength |c - start|^2 = (gram + strength I)^-1 (right + strength start)``: ``[B, O]``."""
        eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        factor = torch.linalg.cholesky(self.gram + strength * eye)
        return torch.cholesky_solve(self.right + strength * start, factor)


def loaded_weights(problem: Problem) -> Tensor:
    """The last layer's weights that the network has loaded, float64 ``[B, O]``; differentiable in them."""
    layer = _last_layer(problem)
    assert layer.bias is not None
    return _joined(layer.weight, layer.bias)


def weights_in(problem: Problem, parameters: Tensor) -> Tensor:
    """The last layer's weights in ``parameters [P]``, float64 ``[B, O]``."""
    return _joined(*_views(problem, parameters))


def with_weights(problem: Problem, parameters: Tensor, c: Tensor) -> Tensor:
    """``parameters [P]`` with ``c [B, O]`` as the last layer's weights."""
    moved = parameters.clone()
    weight, bias = _views(problem, moved)
    weight.copy_(c[:-1].T.reshape(weight.shape))
    bias.copy_(c[-1])
    return moved


def regression(problem: Problem, condition: Condition, images: Tensor, rng: torch.Generator) -> Regression:
    """The mean loss of ``images [B, C, H, W]`` in a draw, at the parameters that the network has loaded.

    A family that names its ``least_squares`` layer promises that every loss is ``sum w |o - y|^2`` over positions
    of that layer's output ``o``, with ``w`` and ``y`` free of the parameters. So they can be read off the loss
    itself, whatever preconditioning lies between: put ``o = 0``, and the slope there is ``-2 w y``, the second
    derivative ``2 w``.
    """
    module, layer, caught = problem.network.module, _last_layer(problem), dict[str, Tensor]()

    def catch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dtype = torch.promote_types(output.dtype, torch.float32)
        caught["features"] = _design(layer, inputs[0])
        caught["output"] = torch.zeros_like(output, dtype=dtype, requires_grad=True)
        return caught["output"]

    handle = layer.register_forward_hook(catch)
    try:
        loss = problem.losses(module, condition, images, rng).mean()
    finally:
        handle.remove()
    (slope,) = torch.autograd.grad(loss, caught["output"], create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), caught["output"])
    double, targets = _positions(curvature).double(), _positions(-slope.detach() / curvature).double()
    return Regression(caught["features"], targets, double[:, 0] / 2)


def _last_layer(problem: Problem) -> Layer:
    return cast(Layer, problem.network.module.get_submodule(str(problem.family.least_squares)))


def _views(problem: Problem, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the last layer in ``parameters [P]``, sharing memory."""
    layout, name = problem.network.layout, problem.family.least_squares
    weight, bias = (layout.view(parameters, layout.names.index(f"{name}.{part}")) for part in ("weight", "bias"))
    return weight, bias


def _joined(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight.flatten(1), bias[:, None]], dim=1).T.double()


def _design(layer: Layer, inputs: Tensor) -> Tensor:
    """What the layer multiplies with its weights at every position: float64 ``[n, B]``, a last column of ones."""
    rows = inputs.flatten(0, -2)
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        patches = F.unfold(inputs.float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        rows = patches.transpose(1, 2).flatten(0, 1)
    rows = rows.double()
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _positions(output: Tensor) -> Tensor:
    """A layer's output as ``[n, O]``: channels last."""
    return (output.flatten(2).transpose(1, 2) if output.ndim == 4 else output).flatten(0, -2)
