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
    """Gradient in, direction out; ``parameters -= step_size * direction``.

    Rules are pure in tensors: they replace what ``state`` holds and never write into it, so that the same formula
    is differentiable to any order (``algorithms/maml.py``) and an earlier state can be kept by keeping the dict.
    """

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        """The direction ``[P]`` of ``step`` (from 0). ``state`` starts empty; its entries are replaced."""
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
        m = state["momentum"] = torch.add(gradient, _last(state, "momentum", gradient), alpha=self.decay)
        return m


class Adam:
    """Bias-corrected first over root of second moment (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        m = state["first"] = torch.lerp(_last(state, "first", gradient), gradient, 1 - self.beta1)
        decayed = _last(state, "second", gradient) * self.beta2
        v = state["second"] = torch.addcmul(decayed, gradient, gradient, value=1 - self.beta2)
        correction1, correction2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        return m / ((safe_root(v) * correction2**-0.5 + self.epsilon) * correction1)


class Sign:
    """Sign of an interpolated momentum (Lion: Chen et al. 2023, arXiv:2302.06675). Its derivative is zero."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99) -> None:
        self.beta1, self.beta2 = beta1, beta2

    def __call__(self, state: State, gradient: Tensor, step: int) -> Tensor:
        m = _last(state, "momentum", gradient)
        state["momentum"] = torch.lerp(m, gradient, 1 - self.beta2)
        return torch.lerp(gradient, m, self.beta1).sign()


def _last(state: State, name: str, like: Tensor) -> Tensor:
    """What the state holds, or zeros before the first step."""
    return state[name] if name in state else torch.zeros_like(like)


def safe_root(x: Tensor) -> Tensor:
    """``sqrt(x)`` for ``x >= 0`` with derivative 0 at 0, where that of the root is infinite.

    For ``sqrt(g^2) = |g|`` that is the mean of the slopes on both sides.
    """
    return x.clamp_min(torch.finfo(x.dtype).tiny).sqrt()


RULES: dict[str, Callable[[], Rule]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam, "sign": Sign}


def known_rule(name: str) -> str:
    """``name`` if it is in ``RULES``; else ``ValueError`` with the nearest."""
    if name not in RULES:
        raise ValueError(f"unknown rule '{name}'{nearest(name, RULES)}")
    return name
