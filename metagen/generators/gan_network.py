"""The two players of the gan family: a set-conditioned generator and a set-conditioned critic in one module.

Shapes as in ``network.py``: ``B`` images in ``T`` groups, ``E`` the embedding, ``Z`` the latent. Neither looks at
more than one image of a batch at a time, so that the critic's gradient in an image is that image's alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.halves import Decoder, Encoder
from metagen.generators.network import ACTIVATIONS, Features, SetConditioned, SetEncoder


class Generator(SetConditioned):
    """Latents and set features to images: ``tanh`` of the decoder half."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int, latent: int) -> None:
        super().__init__()
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        self.decoder = Decoder(arch, self.set, channels, image_size, latent)

    def forward(self, latent: Tensor, context: Features) -> Tensor:
        """``latent [B, Z]``, ``context`` of ``T`` groups -> images ``[B, C, H, W]`` in (-1, 1)."""
        return torch.tanh(self.decoder(latent, context))


class Critic(SetConditioned):
    """How much an image looks like one of the set's class: the encoder half, read out as one number.

    The set acts within the encoder and once more at the end, by projection: ``<w + v(S), h(x, S)>`` with ``v`` the
    set's vector (Miyato & Koyama 2018, arXiv:1802.05637). Losses ask for differences of scores: there is no bias.
    """

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int) -> None:
        super().__init__()
        self.act = ACTIVATIONS[arch.activation]
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        self.encoder = Encoder(arch, self.set, channels, image_size, arch.embedding)
        self.out = nn.Linear(arch.embedding, 1, bias=False)

    def forward(self, x: Tensor, context: Features) -> Tensor:
        """Images ``x [B, C, H, W]``, ``context`` of ``T`` groups -> scores ``[B]``, higher for real ones."""
        h = self.act(self.encoder(x, context))
        score = self.out(h)[:, 0]
        if not context:
            return score
        vector = context[-1].repeat_interleave(len(x) // len(context[-1]), dim=0)
        return score + (h * vector).sum(1) / h.shape[1] ** 0.5


class Players(nn.Module):
    """Both in one module, hence in one flat vector: the generator's parameters first, then the critic's."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int, latent: int) -> None:
        super().__init__()
        self.generator = Generator(arch, channels, image_size, latent)
        self.critic = Critic(arch, channels, image_size)
