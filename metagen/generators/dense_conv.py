"""Noise in, image out, through two convolutions and two dense layers: the plainest generator, kept as a baseline."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Draw, Family
from metagen.generators.network import ACTIVATIONS, conv, norm, prepared, wide

FIXED: dict[str, tuple[Any, str]] = {
    "network": ("unet", "it has convolutions and dense layers of its own"),
    "patch": (1, "it reads single pixels"),
    "blocks": (1, "it has one convolution for each of widths"),
    "resampling": ("conv", "it works at one resolution and resamples nothing"),
    "connectivity": ("plain", "its layers follow each other without blocks"),
    "skips": (False, "it has no encoder and decoder to connect"),
    "attention": (False, "it has none"),
    "set_conditioning": ("none", "it sees noise alone and learns a class by adaptation"),
    "set_width": (0.5, "it has no set encoder"),
}
"""What the network leaves no choice of, and why."""


class DenseConv(Family):
    """Noise image -> convolutions -> flatten -> dense -> dense, sigmoid; binary cross-entropy of every pixel.

    At the preset's values: two convolutions of 64 channels, 3x3, relu, then 128 units, relu, then H*W*C.

    Nothing ties a draw of noise to one image rather than another: the noise that goes in with an image is drawn
    anew each time. So the least loss is at the mean image of the class, whatever the noise, and that is what it
    tends to. It is here to be compared with.
    """

    metric = "binary cross-entropy (nats a pixel)"

    def __init__(self, arch: ArchitectureConfig, options: None, channels: int, image_size: int) -> None:
        arch.check_fixed(FIXED, "family dense-conv")
        self.arch = arch
        self.channels, self.image_size = channels, image_size

    def build(self) -> nn.Module:
        return DenseConvNetwork(self.arch, self.channels, self.image_size)

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """A noise image for each loss."""
        return {"noise": torch.randn(count, self.channels, self.image_size, self.image_size, generator=rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """Binary cross-entropy with the pixels in [0, 1] as targets, mean over pixels: ``[B]``."""
        logits = wide(network(prepared(network, draw["noise"])))
        targets = ((images + 1) / 2).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """One pass of the network."""
        groups = len(condition.members)
        noise = self.draw(groups * count, rng)["noise"].to(condition.support.device)
        images = 2 * torch.sigmoid(wide(network(prepared(network, noise)))) - 1
        return images.unflatten(0, (groups, count))


class DenseConvNetwork(nn.Module):
    """Noise ``[B, C, H, W]`` to logits alike; ``widths`` are the convolutions, ``embedding`` the dense layer."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int) -> None:
        super().__init__()
        self.act, self.form = ACTIVATIONS[arch.activation], (channels, image_size, image_size)
        widths = (channels, *arch.widths)
        self.convs = nn.ModuleList(conv(a, b, arch.kernel) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(norm(arch.normalisation, width) for width in arch.widths)
        self.dense = nn.Linear(widths[-1] * image_size**2, arch.embedding)
        self.out = nn.Linear(arch.embedding, channels * image_size**2)

    def forward(self, noise: Tensor) -> Tensor:
        h = noise
        for convolution, normalise in zip(self.convs, self.norms, strict=True):
            h = self.act(normalise(convolution(h)))
        return self.out(self.act(self.dense(h.flatten(1)))).unflatten(1, self.form)
