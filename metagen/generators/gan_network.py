"""The two players of the gan family: a set-conditioned generator and a set-conditioned critic in one module.

Shapes as in ``network.py``: ``B`` images in ``T`` groups, ``E`` the embedding, ``Z`` the latent. Nothing here
looks at more than one image of a batch at a time, so that a critic's gradient in an image is that image's alone.
"""

from __future__ import annotations

import torch
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
    conv,
    hinted,
    norm,
)

START = 8
"""Channels of the latent's map at the coarsest level."""


class Generator(nn.Module):
    """Latent and set features to images: the decoder half of the set-conditioned encoder-decoder.

    The latent acts twice: as a map that the coarsest level starts from, and through FiLM on every block.
    """

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int, latent: int) -> None:
        super().__init__()
        self.arch, self.act = arch, ACTIVATIONS[arch.activation]
        widths, E = arch.widths, arch.embedding
        self.side = image_size // (arch.patch * 2 ** (len(widths) - 1))
        levels = range(len(widths))
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        self.latent1, self.latent2 = nn.Linear(latent, E), nn.Linear(E, E)
        self.start = nn.Linear(latent, START * self.side**2)
        self.stem = conv(START, widths[-1], 3)
        self.stages = nn.ModuleList(Stage(widths[i], widths[i], E, arch, arch.attends(i)) for i in levels)
        self.ups = nn.ModuleList(Up(widths[i + 1], widths[i], arch) for i in levels[:-1])
        if self.set is not None and self.set.spatial:
            self.hints = nn.ModuleList(conv(2 * self.set.widths[i], widths[i], 1) for i in levels)
        self.norm = norm(arch.normalisation, widths[0])
        self.out = conv(widths[0], channels * arch.patch**2, 3)

    def encode(self, images: Tensor) -> Features:
        """Features of each support image ``[N, C, H, W]``: a map a level, then a vector."""
        return [] if self.set is None else self.set(images)

    def forward(self, latent: Tensor, context: Features) -> Tensor:
        """``latent [B, Z]``, ``context`` of ``T`` groups -> images ``[B, C, H, W]`` in (-1, 1)."""
        B = latent.shape[0]
        e = self.latent2(self.act(self.latent1(latent)))
        if self.set is not None:
            e = e + context[-1].repeat_interleave(B // context[-1].shape[0], dim=0)
        e, maps = self.act(e), context[:-1]
        h = self.start(latent).view(B, START, self.side, self.side).contiguous(memory_format=torch.channels_last)
        h = self.stem(h)
        for level in reversed(range(len(self.stages))):
            if level + 1 < len(self.stages):
                h = self.ups[level](h)
            if maps:
                h = hinted(h, self.hints[level](maps[level]))
            h = self.stages[level](h, e)
        h = torch.tanh(self.out(self.act(self.norm(h))))
        return F.pixel_shuffle(h, self.arch.patch) if self.arch.patch > 1 else h


class Critic(nn.Module):
    """How much an image looks like one of the set's class: the encoder half, read out as one number.

    The set acts as in the generator, and once more at the end by projection: ``w . h(x) + <v(S), h(x)>``
    (Miyato & Koyama 2018, arXiv:1802.05637).
    """

    def __init__(self, arch: ArchitectureConfig, channels: int) -> None:
        super().__init__()
        self.arch, self.act = arch, ACTIVATIONS[arch.activation]
        widths, E = arch.widths, arch.embedding
        levels = range(len(widths))
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        film = E if self.set is not None else 0
        self.stem = conv(channels * arch.patch**2, widths[0], 3)
        self.stages = nn.ModuleList(Stage(widths[i], widths[i], film, arch, arch.attends(i)) for i in levels)
        self.downs = nn.ModuleList(Down(widths[i], widths[i + 1], arch) for i in levels[:-1])
        if self.set is not None and self.set.spatial:
            self.hints = nn.ModuleList(conv(2 * self.set.widths[i], widths[i], 1) for i in levels)
        self.norm = norm(arch.normalisation, widths[-1])
        self.features = nn.Linear(2 * widths[-1], E)
        self.out = nn.Linear(E, 1)

    def forward(self, x: Tensor, context: Features) -> Tensor:
        """Images ``x [B, C, H, W]``, ``context`` of ``T`` groups -> scores ``[B]``, higher for real ones."""
        vector = e = None
        if self.set is not None:
            vector = context[-1].repeat_interleave(x.shape[0] // context[-1].shape[0], dim=0)
            e = self.act(vector)
        maps = context[:-1]
        h = self.stem(F.pixel_unshuffle(x, self.arch.patch) if self.arch.patch > 1 else x)
        for level, stage in enumerate(self.stages):
            if level:
                h = self.downs[level - 1](h)
            if maps:
                h = hinted(h, self.hints[level](maps[level]))
            h = stage(h, e)
        h = self.act(self.norm(h))
        h = self.act(self.features(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)))
        score = self.out(h)[:, 0]
        return score if vector is None else score + (h * vector).sum(1) / h.shape[1] ** 0.5


class Players(nn.Module):
    """Both in one module, hence in one flat vector: the generator's parameters first, then the critic's."""

    def __init__(self, generator: Generator, critic: Critic) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic
