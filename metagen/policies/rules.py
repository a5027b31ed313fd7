"""Update rules: how a gradient becomes a direction. The step size is the policy's.

Every rule works on the one flat parameter vector ``[P]``, so a step costs a handful of fused operations
whatever the number of layers; ``muon`` alone looks at convolution kernels one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from metagen.errors import nearest
from metagen.flat import Layers
from metagen.outer import orthogonalise

State = dict[str, Tensor]


class Rule(Protocol):
    """Gradient in, direction out; ``parameters -= step_size * direction``.

    Rules are pure in tensors: they replace what ``state`` holds and never write into it, so that the same formula
    is differentiable to any order (``algorithms/maml.py``) and an earlier state can be kept by keeping the dict.
    """

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        """The direction ``[P]`` of ``step`` (from 0). ``state`` starts empty; its entries are replaced."""
        ...


class SGD:
    """The gradient itself."""

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        return gradient


class Momentum:
    """Heavy ball: ``m <- decay m + g`` (Polyak 1964)."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        m = state["momentum"] = torch.add(gradient, _last(state, "momentum", gradient), alpha=self.decay)
        return m


class Adam:
    """Bias-corrected first over root of second moment (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        if not any(value.requires_grad for value in (gradient, *state.values())):
            return self._fused(state, gradient, step)
        m = state["first"] = torch.lerp(_last(state, "first", gradient), gradient, 1 - self.beta1)
        decayed = _last(state, "second", gradient) * self.beta2
        v = state["second"] = torch.addcmul(decayed, gradient, gradient, value=1 - self.beta2)
        correction1, correction2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        return m / ((safe_root(v) * correction2**-0.5 + self.epsilon) * correction1)

    def _fused(self, state: State, gradient: Tensor, step: int) -> Tensor:
        """The same in one pass over memory instead of ten, where nothing is to be differentiated."""
        direction, taken = torch.zeros_like(gradient), torch.tensor(float(step), device=gradient.device)
        m = state["first"] = _last(state, "first", gradient).clone()
        v = state["second"] = _last(state, "second", gradient).clone()
        # A step of size -1 from 0 is the direction.
        kernel = partial(
            adam, [direction], [gradient], [m], [v], [], [taken], fused=True, amsgrad=False, maximize=False
        )
        kernel(lr=-1.0, beta1=self.beta1, beta2=self.beta2, eps=self.epsilon, weight_decay=0.0)
        return direction


class Sign:
    """Sign of an interpolated momentum (Lion: Chen et al. 2023, arXiv:2302.06675). Its derivative is zero."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99) -> None:
        self.beta1, self.beta2 = beta1, beta2

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        m = _last(state, "momentum", gradient)
        state["momentum"] = torch.lerp(m, gradient, 1 - self.beta2)
        return torch.lerp(gradient, m, self.beta1).sign()


class Muon:
    """Orthogonalised Nesterov momentum for convolution kernels as matrices, Adam for all the rest.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. ``U V^T`` is scaled by ``0.2 sqrt(max(rows,
    columns))``, which gives its entries the size of Adam's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that
    one step size serves both.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.adam = decay, Adam(beta1=decay)

    def __call__(self, state: State, gradient: Tensor, step: int, layers: Layers) -> Tensor:
        direction = self.adam(state, gradient, step, layers).clone()
        ahead = torch.lerp(gradient, state["first"], self.decay)
        for start, rows, columns in layers.kernels:
            kernel = slice(start, start + rows * columns)
            matrix = orthogonalise(ahead[kernel].view(rows, columns))
            direction[kernel] = 0.2 * max(rows, columns) ** 0.5 * matrix.flatten()
        return direction


def _last(state: State, name: str, like: Tensor) -> Tensor:
    """What the state holds, or zeros before the first step."""
    return state[name] if name in state else torch.zeros_like(like)


def safe_root(x: Tensor) -> Tensor:
    """``sqrt(x)`` for ``x >= 0`` with derivative 0 at 0, where that of the root is infinite.

    For ``sqrt(g^2) = |g|`` that is the mean of the slopes on both sides.
    """
    return x.clamp_min(torch.finfo(x.dtype).tiny).sqrt()


RULES: dict[str, Callable[..., Rule]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam, "sign": Sign, "muon": Muon}
"""All take the decay of their momentum as first argument, but for sgd, which has none."""


def known_rule(name: str) -> str:
    """``name`` if it is in ``RULES``; else ``ValueError`` with the nearest."""
    if name not in RULES:
        raise ValueError(f"unknown rule '{name}'{nearest(name, RULES)}")
    return name
