"""A network's parameters as one flat vector: how they travel, how they are stepped, how they are saved.

One vector means one message to an actor, one fused operation an update rule, one memory-mapped array a
checkpoint. The module's own parameters are views of a second flat vector in the compute dtype, so that
loading new parameters is one copy and reading the gradient is another, whatever the number of layers.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metagen.errors import UserError

Inputs = Mapping[str, Any]
"""What a loss is taken of: tensors, or mappings of them, by name."""


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector, and which layer (module) it belongs to."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    layers: tuple[str, ...]
    """Layers in order: a module's weight and bias are one layer."""
    layer_sizes: tuple[int, ...]

    @staticmethod
    def of(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Layout:
        """The layout of parameters that lie one behind the other."""
        sizes = [torch.Size(shape).numel() for shape in shapes]
        layers: dict[str, int] = {}
        for name, size in zip(names, sizes, strict=True):
            layer = name.rpartition(".")[0] or name
            layers[layer] = layers.get(layer, 0) + size
        offsets = tuple(accumulate(sizes, initial=0))[: len(sizes)]
        return Layout(tuple(names), tuple(shapes), offsets, tuple(layers), tuple(layers.values()))

    @property
    def size(self) -> int:
        return sum(self.layer_sizes)

    def view(self, flat: Tensor, index: int) -> Tensor:
        """Parameter ``index`` of ``flat [P]`` in its own shape, sharing memory.

        Convolution kernels lie channels-last in the vector (``[O, kh, kw, I]``), the order the CPU's and
        GPU's bf16 kernels read.
        """
        start = self.offsets[index]
        return _shaped(flat[start : start + self._sizes[index]], self.shapes[index])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """All parameters by name, as views of ``flat [P]``."""
        # One split: its derivative is one concatenation, that of slices a vector [P] for each of them.
        parts = zip(self.names, flat.split(self._sizes), self.shapes, strict=True)
        return {name: _shaped(part, shape) for name, part, shape in parts}

    @property
    def _sizes(self) -> list[int]:
        return [torch.Size(shape).numel() for shape in self.shapes]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``unflatten``: a new float32 vector ``[P]``."""
        flat = torch.empty(self.size)
        for i, name in enumerate(self.names):
            self.view(flat, i).copy_(tensors[name].detach())
        return flat

    def subset(self, patterns: Sequence[str]) -> Tensor:
        """Which of the parameters have names that a pattern such as ``out.*`` matches: bool ``[P]``."""
        chosen = torch.tensor(named(self.names, patterns))
        return chosen.repeat_interleave(torch.tensor(self._sizes))

    def kernels(self) -> list[tuple[int, int, int]]:
        """``(start, rows, columns)`` of every convolution kernel as a matrix, rows being outputs."""
        return [
            (start, shape[0], torch.Size(shape[1:]).numel())
            for start, shape in zip(self.offsets, self.shapes, strict=True)
            if len(shape) == 4
        ]


def _shaped(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 4:
        out, inputs, height, width = shape
        return part.view(out, height, width, inputs).permute(0, 3, 1, 2)
    return part.view(shape)


def layout_of(module: nn.Module) -> Layout:
    """The layout of a module's parameters in their own order."""
    parameters = list(module.named_parameters())
    return Layout.of([name for name, _ in parameters], [tuple(parameter.shape) for _, parameter in parameters])


def named(names: Sequence[str], patterns: Sequence[str]) -> list[bool]:
    """For each parameter name whether one of ``patterns`` matches; raises ``UserError`` for one that matches none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            layers = {name.rpartition(".")[0] + ".*" for name in names}
            near = difflib.get_close_matches(pattern, sorted({*names, *layers}), n=3)
            known = near or sorted({name.partition(".")[0] + ".*" for name in names})
            raise UserError(f"policy.adapt: '{pattern}' matches no parameter; try {', '.join(known)}")
    return [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]


class Layers:
    """The layers of a flat vector on a device: sums over each, and values spread over each."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.count = len(layout.layers)
        self.sizes = list(layout.layer_sizes)
        self.kernels = layout.kernels()
        self._lengths = torch.tensor(self.sizes, device=device)
        self._of = torch.repeat_interleave(torch.arange(self.count, device=device), self._lengths)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product of ``a [P]`` and ``b [P]`` within each layer: ``[L]``."""
        if a.device.type == "cpu":  # faster here than a segmented sum
            pairs = zip(a.split(self.sizes), b.split(self.sizes), strict=True)
            return torch.stack([torch.dot(x, y) for x, y in pairs])
        return torch.segment_reduce(a * b, "sum", lengths=self._lengths)

    def mean_square(self, values: Tensor) -> Tensor:
        """Mean of the squares of ``values [P]`` in each layer: ``[L]``."""
        return self.dot(values, values) / self._lengths.to(values)

    def spread(self, values: Tensor) -> Tensor:
        """One value a layer ``[L]`` to one a parameter ``[P]``."""
        return values.index_select(0, self._of)


class FlatNetwork:
    """A module whose parameters are views of one vector in the compute dtype.

    ``load`` takes float32 master parameters ``[P]``; ``gradient`` gives gradients ``[P]``. Both are for first
    order and fast. ``call`` computes with any vector, differentiable to any order, and leaves the views alone.

    Raises ``UserError`` for a parameter that needs no gradient: the vector is learned as a whole.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        if fixed := [name for name, parameter in module.named_parameters() if not parameter.requires_grad]:
            raise UserError(
                f"parameter '{fixed[0]}' needs no gradient, and all parameters of a network are learned: keep what its "
                "build() fixes as a buffer"
            )
        self.layout = layout_of(module)
        self.initial = self.layout.flatten(dict(module.named_parameters()))
        """The parameters that the module was built with, float32 ``[P]`` on the CPU."""
        self.device, self.dtype = device, dtype
        self.module = module.to(device)
        self._compute = torch.zeros(self.layout.size, device=device, dtype=dtype)
        self._gradient = torch.zeros_like(self._compute)
        for i, parameter in enumerate(module.parameters()):
            parameter.data = self.layout.view(self._compute, i)
            parameter.grad = self.layout.view(self._gradient, i)
        self.layers = Layers(self.layout, device)
        self._applied = _Applied(self.module)
        self.load(self.initial.to(device))

    def load(self, parameters: Tensor) -> None:
        """Copy master parameters ``[P]`` in, rounding to the compute dtype."""
        self._compute.copy_(parameters)

    def gradient(self, loss: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """``d loss / d parameters [P]``, as a new vector, of a loss computed with this module."""
        self._gradient.zero_()
        loss.backward()
        return self._gradient.to(dtype, copy=True)

    def gradients(
        self, function: Callable[[nn.Module, Inputs], Tensor], parameters: Tensor, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        """Of ``T`` tasks in one pass, each with parameters of its own: ``function(module, inputs[t])`` at
        ``parameters[t]`` and its gradient there, ``[T]`` and ``[T, P]``. Tensors of ``inputs`` have a first axis ``T``.
        """

        def loss(vector: Tensor, mine: Inputs) -> Tensor:
            return self._called(lambda module: function(module, mine), vector)

        slopes, losses = torch.vmap(torch.func.grad_and_value(loss))(parameters.to(self.dtype), inputs)
        return losses, slopes.to(parameters.dtype)

    def call(self, function: Callable[[nn.Module], Tensor], parameters: Tensor, exact: bool = True) -> Tensor:
        """``function(module)`` with ``parameters [P]`` in place of the module's own, differentiable in them twice.

        ``exact``: in float32 where the network's dtype is bf16, whose few digits a rule may blow up. Attention takes
        the plain formula: fused kernels have no second derivative.
        """
        dtype = torch.promote_types(self.dtype, torch.float32) if exact else self.dtype
        with sdpa_kernel(SDPBackend.MATH):
            return self._called(function, parameters.to(dtype))

    def _called(self, function: Callable[[nn.Module], Tensor], parameters: Tensor) -> Tensor:
        views = {f"module.{name}": view for name, view in self.layout.unflatten(parameters).items()}
        result: Tensor = functional_call(self._applied, views, (function,))
        return result


class _Applied(nn.Module):
    """Lends its module to a function, for ``torch.func.functional_call``, which replaces parameters in a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.module)
