"""The set-conditioned perceptron: all pixels at once, no convolutions. For small images and many tasks.

A layer is one small matrix product, so that a task alone leaves a processor waiting for the next operation to be
launched; several tasks at once, each with parameters of its own, are one product of batches (``problem.Problem``).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.network import ACTIVATIONS, Features, SetConditioned, norm, time_features

FIXED: dict[str, tuple[Any, str]] = {
    "patch": (1, "it reads single pixels"),
    "blocks": (1, "it has one layer for each of widths"),
    "kernel": (3, "it has no convolutions"),
    "resampling": ("conv", "it has no resolutions"),
    "skips": (False, "it has no encoder and decoder to connect"),
    "attention": (False, "it has no feature maps"),
}
"""What the network leaves no choice of, and why."""


def check(arch: ArchitectureConfig, family: str) -> None:
    """Raise ``ValueError`` for what a perceptron has no use for."""
    spatial = {"set_conditioning": ("vector", "it has no feature maps")} if arch.set_conditioning == "spatial" else {}
    arch.check_fixed({**FIXED, **spatial}, f"generator.architecture.network mlp of family {family}")


class Hidden(nn.Module):
    """One hidden layer with FiLM: ``linear(act(film(norm(x))))``.

    ``connectivity`` decides how input and output meet: replaced (plain), added (residual, where widths are equal) or
    concatenated and mixed by a further layer (dense).
    """

    def __init__(self, inputs: int, outputs: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[arch.activation]
        self.norm = norm(arch.normalisation, inputs)
        self.film = nn.Linear(arch.embedding, 2 * inputs)
        self.linear = nn.Linear(inputs, outputs)
        self.residual = arch.connectivity == "residual" and inputs == outputs
        self.mix = nn.Linear(inputs + outputs, outputs) if arch.connectivity == "dense" else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm(x)
        scale, shift = self.film(embedding).chunk(2, dim=1)
        h = self.linear(self.act(torch.addcmul(h + shift, h, scale)))
        if self.mix is not None:
            return self.mix(torch.cat([x, h], dim=1))
        return x + h if self.residual else h


class SetPerceptron(nn.Module):
    """Support images ``[N, C, H, W]`` to one vector each ``[N, E]``."""

    def __init__(self, pixels: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        width = max(8, int(arch.widths[0] * arch.set_width) // 8 * 8)
        self.act = ACTIVATIONS[arch.activation]
        self.hidden, self.vector = nn.Linear(pixels, width), nn.Linear(width, arch.embedding)

    def forward(self, images: Tensor) -> Features:
        return [self.vector(self.act(self.hidden(images.flatten(1))))]


class SetConditionedMlp(SetConditioned):
    """What ``SetConditionedUNet`` is, of linear layers: noise-level and set-conditioned, images to images."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int) -> None:
        super().__init__()
        pixels, widths, E = channels * image_size**2, arch.widths, arch.embedding
        self.act, self.form = ACTIVATIONS[arch.activation], (channels, image_size, image_size)
        self.time1, self.time2 = nn.Linear(64, E), nn.Linear(E, E)
        self.set = SetPerceptron(pixels, arch) if arch.set_conditioning != "none" else None
        self.stem = nn.Linear(pixels, widths[0])
        self.hidden = nn.ModuleList(Hidden(a, b, arch) for a, b in itertools.pairwise((widths[0], *widths)))
        self.norm = norm(arch.normalisation, widths[-1])
        self.out = nn.Linear(widths[-1], pixels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor, context: Features) -> Tensor:
        """``x [B, C, H, W]``, ``time [B]`` in [0, 1], ``context`` of ``T`` groups -> ``[B, C, H, W]``."""
        e = self.time2(self.act(self.time1(time_features(time, 64).to(x.dtype))))
        if context:
            [vector] = context
            e = e + vector.repeat_interleave(len(x) // len(vector), dim=0)
        e = self.act(e)
        h = self.stem(x.flatten(1))
        for layer in self.hidden:
            h = layer(h, e)
        return self.out(self.act(self.norm(h))).unflatten(1, self.form)
