"""Update rules: how a gradient becomes a direction. The step size is the policy's.

Every rule works on the one flat parameter vector ``[P]``, so a step costs a handful of fused operations
whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from metagen.errors import nearest

State = dict[str, Tensor]


class Rule(Protocol):
    """Gradient in, direction out; ``parameters -= step_size * direction``."""

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        """The direction ``[P]`` of ``step`` (from 0). ``state`` starts empty and is updated in place."""
        ...


class SGD:
    """The gradient itself."""

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        return gradient


class Momentum:
    """Heavy ball: ``m <- decay m + g`` (Polyak 1964)."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        m = state.setdefault("momentum", torch.zeros_like(gradient))
        return m.mul_(self.decay).add_(gradient)


class Adam:
    """Bias-corrected first over root of second moment (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        m = state.setdefault("first", torch.zeros_like(gradient))
        v = state.setdefault("second", torch.zeros_like(gradient))
        m.lerp_(gradient, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        correction1, correction2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        root = (v / correction2).sqrt_().add_(self.epsilon)
        return m.div(root).div_(correction1)


class Sign:
    """Sign of an interpolated momentum (Lion: Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99) -> None:
        self.beta1, self.beta2 = beta1, beta2

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        m = state.setdefault("momentum", torch.zeros_like(gradient))
        direction = torch.lerp(gradient, m, self.beta1).sign_()
        m.lerp_(gradient, 1 - self.beta2)
        return direction


RULES: dict[str, Callable[[], Rule]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam, "sign": Sign}


def known_rule(name: str) -> str:
    """``name`` if it is in ``RULES``; else ``ValueError`` with the nearest."""
    if name not in RULES:
        raise ValueError(f"unknown rule '{name}'{nearest(name, RULES)}")
    return name
