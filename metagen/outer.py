"""The outer loop's optimisers: how the learner applies a meta-gradient. State in, state out.

All of them work on flat vectors; their moments are vectors too, so a checkpoint holds everything.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from metagen.flat import Layout
from metagen.strict import Strict

Moments = dict[str, Tensor]


class OuterConfig(Strict):
    """One outer optimiser with its schedule, over the steps of one phase."""

    optimizer: Literal["adam", "muon", "sgd", "nesterov"] = "muon"
    learning_rate: float = Field(0.02, gt=0)
    adam_ratio: float = Field(0.15, gt=0)
    """With muon, which steps convolution kernels: Adam's learning rate for all the rest, as a share."""
    momentum: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the meta-gradient; a longer one is scaled down to it."""
    warmup: int = Field(50, ge=0)
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    policy_learning_rate: float = Field(0.05, gt=0)
    """Adam's step for the policy's parameters, with the same schedule."""
    policy_epochs: int = Field(1, ge=1)
    """Steps that the policy takes on the experiences of one outer step."""
    freeze_generator: bool = False
    """Learn the policy alone: theta stays as it is."""

    def rate(self, step: int, steps: int) -> float:
        """Share of the learning rates at ``step`` (from 0) of ``steps``."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        done = step / steps
        decay = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
        return warm * decay


def direction(config: OuterConfig, layout: Layout, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
    """The direction ``[P]`` to step against, and the moments after it."""
    if config.optimizer == "sgd":
        return gradient, moments
    if config.optimizer == "nesterov":
        momentum = moments["first"] * config.momentum + gradient
        return gradient + config.momentum * momentum, {**moments, "first": momentum}
    if config.optimizer == "adam":
        return adam(gradient, moments, config.momentum, config.beta2)
    return _muon(config, layout, gradient, moments)


def _muon(config: OuterConfig, layout: Layout, gradient: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
    """Orthogonalised Nesterov momentum for convolution kernels, Adam for all the rest.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Rows of a kernel's matrix are outputs: a step
    of spectral norm sqrt(rows / columns) changes activations by as much in every layer (Bernstein & Newhouse
    2024, arXiv:2409.20325). Both share the first moment; Adam's pass over the kernels too costs less than picking
    the rest out.
    """
    towards, moments = adam(gradient, moments, config.momentum, config.beta2)
    towards.mul_(config.adam_ratio)
    for start, rows, columns in layout.kernels():
        kernel = slice(start, start + rows * columns)
        ahead = torch.lerp(gradient[kernel], moments["first"][kernel], config.momentum).view(rows, columns)
        towards[kernel] = orthogonalise(ahead).flatten().mul_(max(1.0, rows / columns) ** 0.5)
    return towards, moments


def adam(gradient: Tensor, moments: Moments, beta1: float, beta2: float) -> tuple[Tensor, Moments]:
    """Adam's direction and its moments (Kingma & Ba 2015, algorithm 1)."""
    count = moments["count"] + 1
    steps = float(count)
    first = torch.lerp(moments["first"], gradient, 1 - beta1)
    second = torch.mul(moments["second"], beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # The corrections are folded into the root, which is scaled instead of both moments.
    scale = (1 - beta1**steps) / math.sqrt(1 - beta2**steps)
    root = second.sqrt().mul_(scale).add_(1e-8 * (1 - beta1**steps))
    return first / root, {"first": first, "second": second, "count": count}


def no_moments(size: int) -> Moments:
    """The moments before the first step, for parameters ``[size]``."""
    return {"first": torch.zeros(size), "second": torch.zeros(size), "count": torch.zeros(())}


QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
"""Odd polynomials ``a s + b s^3 + c s^5``, each the nearest to 1 on the interval that those before it leave of
[0.003, 1]; together they bring it into [0.8, 1.2] (Amsel et al. 2025, arXiv:2505.16932)."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly: ``U V^T`` of ``matrix = U S V^T``, singular values near 1.

    Newton-Schulz iteration ``X <- (a + b X X^T + c (X X^T)^2) X``, with other coefficients at each step. Each
    multiplies X by a polynomial ``q`` of its Gram matrix from the left, so only the small Gram matrix and the product
    of the ``q`` are iterated, and X is read twice. That takes float32: squared singular values need twice the digits.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    gram, product = x @ x.T, None
    # The Schatten 4-norm of X: no smaller than its largest singular value, and nearer to it than the Frobenius norm.
    scale = gram.norm().sqrt() + 1e-7
    gram = gram / scale.square()
    for step, (a, b, c) in enumerate(QUINTICS, 1):
        q = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        q.diagonal().add_(a)
        product = q if product is None else q @ product
        if step < len(QUINTICS):
            gram = q @ gram @ q
    assert product is not None
    x = (product / scale) @ x
    return x.T if tall else x
