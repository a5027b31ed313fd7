"""The two halves of the set-conditioned encoder-decoder, each on its own: images to numbers, numbers to images.

Shapes as in ``network.py``: ``B`` images in ``T`` groups, ``E`` the embedding, ``Z`` the latent. ``context`` is what
a ``SetEncoder`` of the same architecture gives, pooled.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.network import (
    ACTIVATIONS,
    Down,
    Features,
    SetEncoder,
    Stage,
    Up,
    channels_last,
    conv,
    hinted,
    norm,
)

CHANNELS = 16
"""Channels of the coarsest map where it meets a vector."""


def coarsest(arch: ArchitectureConfig, image_size: int) -> int:
    """Height and width of the deepest level's map."""
    return image_size // (arch.patch * 2 ** (len(arch.widths) - 1))


def _hints(arch: ArchitectureConfig, given: SetEncoder | None) -> nn.ModuleList:
    """One convolution a level that brings the set's maps to the level's width; none without maps."""
    if given is None or not given.spatial:
        return nn.ModuleList()
    return nn.ModuleList(conv(2 * w, width, 1) for w, width in zip(given.widths, arch.widths, strict=True))


class Encoder(nn.Module):
    """Images and set features to ``outputs`` numbers an image."""

    def __init__(
        self, arch: ArchitectureConfig, given: SetEncoder | None, channels: int, image_size: int, outputs: int
    ) -> None:
        super().__init__()
        self.arch, self.act, widths = arch, ACTIVATIONS[arch.activation], arch.widths
        film = arch.embedding if given is not None else 0
        self.stem = conv(channels * arch.patch**2, widths[0], 3)
        self.stages = nn.ModuleList(Stage(w, w, film, arch, arch.attends(i)) for i, w in enumerate(widths))
        self.downs = nn.ModuleList(Down(a, b, arch) for a, b in itertools.pairwise(widths))
        self.hints = _hints(arch, given)
        self.norm = norm(arch.normalisation, widths[-1])
        self.narrow = conv(widths[-1], CHANNELS, 1)
        self.out = nn.Linear(CHANNELS * coarsest(arch, image_size) ** 2, outputs)

    def forward(self, x: Tensor, context: Features) -> Tensor:
        """``x [B, C, H, W]`` and ``context`` of ``T`` groups -> ``[B, outputs]``."""
        e = self.act(_spread(context[-1], len(x))) if context else None
        h = self.stem(F.pixel_unshuffle(x, self.arch.patch) if self.arch.patch > 1 else x)
        for level, stage in enumerate(self.stages):
            if level:
                h = self.downs[level - 1](h)
            if len(self.hints):
                h = hinted(h, self.hints[level](context[level]))
            h = stage(h, e)
        return self.out(self.narrow(self.act(self.norm(h))).flatten(1))


class Decoder(nn.Module):
    """Latents and set features to ``outputs`` numbers a pixel.

    A latent is the map that the coarsest level starts from. With ``skips`` it also reaches every block of every
    level, through FiLM (generative skip connections, Dieng et al. 2019, arXiv:1807.04863).
    """

    def __init__(
        self, arch: ArchitectureConfig, given: SetEncoder | None, outputs: int, image_size: int, latent: int
    ) -> None:
        super().__init__()
        self.arch, self.act, widths, E = arch, ACTIVATIONS[arch.activation], arch.widths, arch.embedding
        self.side = coarsest(arch, image_size)
        film = E if given is not None or arch.skips else 0
        self.start = nn.Linear(latent, CHANNELS * self.side**2)
        if arch.skips:
            self.latent1, self.latent2 = nn.Linear(latent, E), nn.Linear(E, E)
        self.stem = conv(CHANNELS, widths[-1], 3)
        self.stages = nn.ModuleList(Stage(w, w, film, arch, arch.attends(i)) for i, w in enumerate(widths))
        self.ups = nn.ModuleList(Up(b, a, arch) for a, b in itertools.pairwise(widths))
        self.hints = _hints(arch, given)
        self.norm = norm(arch.normalisation, widths[0])
        self.out = conv(widths[0], outputs * arch.patch**2, 3, zero=True)

    def forward(self, latent: Tensor, context: Features) -> Tensor:
        """``latent [B, Z]`` and ``context`` of ``T`` groups -> ``[B, outputs, H, W]``."""
        B = len(latent)
        parts = [self.latent2(self.act(self.latent1(latent)))] if self.arch.skips else []
        parts += [_spread(context[-1], B)] if context else []
        e = self.act(sum(parts[1:], parts[0])) if parts else None
        h = self.start(latent).view(B, CHANNELS, self.side, self.side)
        h = self.stem(channels_last(h))
        for level in reversed(range(len(self.stages))):
            if level + 1 < len(self.stages):
                h = self.ups[level](h)
            if len(self.hints):
                h = hinted(h, self.hints[level](context[level]))
            h = self.stages[level](h, e)
        h = self.out(self.act(self.norm(h)))
        return F.pixel_shuffle(h, self.arch.patch) if self.arch.patch > 1 else h


def _spread(vectors: Tensor, count: int) -> Tensor:
    """One vector a group ``[T, E]`` to one an image ``[count, E]``."""
    return vectors.repeat_interleave(count // len(vectors), dim=0)
