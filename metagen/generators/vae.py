"""A set-conditioned variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; conditional prior: Sohn et
al. 2015, *Learning structured output representation using deep conditional generative models*)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Draw, Family
from metagen.generators.halves import CHANNELS, Decoder, Encoder, coarsest
from metagen.generators.logistic import log_probability
from metagen.generators.network import (
    ACTIVATIONS,
    Features,
    SetConditioned,
    SetEncoder,
    compute_dtype,
    context_of,
    conv,
    prepared,
    wide,
)
from metagen.metrics.iwae import importance_weighted_bound
from metagen.strict import Strict


class VaeOptions(Strict):
    """What the vae family can be asked beside its architecture."""

    latent: int = Field(64, ge=1, le=4096)
    """Size of ``z``."""
    importance: int = Field(16, ge=1, le=1000)
    """Samples of ``z`` that the bound of an evaluation takes; more are tighter."""
    temperature: float = Field(1.0, ge=0)
    """Spread of the ``z`` that images are drawn from, as a share of the prior's."""


class Vae(Family):
    """Latents ``z`` of an image, images of a latent, both given the support set ``S``::

        prior p(z | S),   likelihood p(x | z, S),   posterior q(z | x, S)
        ln p(x | S) >= E_q ln p(x | z, S) - KL(q || p)

    Prior and posterior are diagonal normal distributions; a pixel is a discretised logistic, so that bounds are
    probabilities of 8-bit images, here in bits a dimension (pixel and channel).
    """

    Options = VaeOptions

    def __init__(self, arch: ArchitectureConfig, options: VaeOptions, channels: int, image_size: int) -> None:
        arch.check_convolutional("vae")
        arch.check_image_size(image_size)
        self.arch, self.options = arch, options
        self.channels, self.image_size = channels, image_size
        self.metric = f"bits/dim (IWAE bound, {options.importance} samples)"
        self.nats = channels * image_size**2 * math.log(2)
        """Nats of an image in one bit/dim."""

    def build(self) -> nn.Module:
        return Autoencoder(self.arch, self.channels, self.image_size, self.options.latent)

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Unit noise for ``importance`` latents of each image; training takes the first."""
        return {"noise": torch.randn(count, self.options.importance, self.options.latent, generator=rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """The negative ELBO with one latent, one an image in bits/dim: ``[B]``."""
        context = context_of(network, condition)
        prior, posterior = _beliefs(network, images, context)
        z = posterior.at(draw["noise"][:, 0])
        bound = self._likelihood(network, images, z, context) - posterior.divergence(prior)
        return -bound / self.nats

    @torch.no_grad()
    def scores(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """The negative importance-weighted bound on ``ln p(x | S)`` in bits/dim: ``[B]``."""
        context = context_of(network, condition)
        prior, posterior = _beliefs(network, images, context)
        weights = []
        for noise in draw["noise"].unbind(1):
            z = posterior.at(noise)
            weights.append(self._likelihood(network, images, z, context) + prior.log(z) - posterior.log(z))
        return -importance_weighted_bound(torch.stack(weights)) / self.nats

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """Latents of the prior, decoded; an image shows each pixel's median, for the noise of pixels is no detail."""
        assert isinstance(network, Autoencoder)
        groups = len(condition.members)
        noise = torch.randn(groups * count, self.options.latent, generator=rng).to(condition.support.device)
        context = context_of(network, condition)
        z = network.prior(context, groups * count).at(self.options.temperature * noise)
        location, _ = network.decode(z, context)
        return location.clamp(-1, 1).unflatten(0, (groups, count))

    def _likelihood(self, network: nn.Module, images: Tensor, z: Tensor, context: Features) -> Tensor:
        """``ln p(x | z, S)`` in nats: ``[B]``."""
        assert isinstance(network, Autoencoder)
        return log_probability(images, *network.decode(z, context)).sum((1, 2, 3))


@dataclass(frozen=True)
class Normal:
    """``B`` diagonal normal distributions over ``z [B, Z]``."""

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """The point that unit noise ``[B, Z]`` becomes."""
        return self.mean + self.log_std.exp() * noise

    def log(self, z: Tensor) -> Tensor:
        """Log density: ``[B]``."""
        square = ((z - self.mean) * (-self.log_std).exp()).square()
        return -(0.5 * square + self.log_std + 0.5 * math.log(2 * math.pi)).sum(1)

    def divergence(self, other: Normal) -> Tensor:
        """``KL(self || other)`` in nats: ``[B]``."""
        ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * (-other.log_std).exp()
        return (0.5 * ((2 * ratio).exp() + shift.square() - 1) - ratio).sum(1)


class Autoencoder(SetConditioned):
    """Set encoder, prior, encoder and decoder in one module. Without a set encoder the prior is the unit normal."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int, latent: int) -> None:
        super().__init__()
        self.act, self.latent = ACTIVATIONS[arch.activation], latent
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        if self.set is not None:
            features = arch.embedding
            if self.set.spatial:  # where strokes lie is in the maps alone
                self.narrow = conv(2 * self.set.widths[-1], CHANNELS, 1)
                features += CHANNELS * coarsest(arch, image_size) ** 2
            self.prior1, self.prior2 = nn.Linear(features, arch.embedding), nn.Linear(arch.embedding, 2 * latent)
        self.encoder = Encoder(arch, self.set, channels, image_size, 2 * latent)
        self.decoder = Decoder(arch, self.set, 2 * channels, image_size, latent)

    def prior(self, context: Features, count: int) -> Normal:
        """``p(z | S)`` for ``count`` images in equal groups."""
        if self.set is None:
            zeros = torch.zeros(count, self.latent, device=next(self.parameters()).device)
            return Normal(zeros, zeros)
        coarse = [self.narrow(maps).flatten(1) for maps in context[-2:-1]]  # the coarsest, if there are maps at all
        seen = [context[-1], *coarse]
        both = self.prior2(self.act(self.prior1(self.act(torch.cat(seen, dim=1)))))
        return _normal(both.repeat_interleave(count // len(both), dim=0))

    def posterior(self, images: Tensor, context: Features) -> Normal:
        """``q(z | x, S)``."""
        return _normal(self.encoder(prepared(self, images), context))

    def decode(self, z: Tensor, context: Features) -> tuple[Tensor, Tensor]:
        """Location and log scale of each pixel's logistic, both ``[B, C, H, W]``."""
        out = self.decoder(z.to(compute_dtype(self)), context)
        location, log_scale = wide(out).chunk(2, dim=1)
        return location, _within(log_scale, 7.0)


def _beliefs(network: nn.Module, images: Tensor, context: Features) -> tuple[Normal, Normal]:
    assert isinstance(network, Autoencoder)
    return network.prior(context, len(images)), network.posterior(images, context)


def _normal(both: Tensor) -> Normal:
    mean, log_std = wide(both).chunk(2, dim=1)
    return Normal(mean, _within(log_std, 5.0))


def _within(values: Tensor, limit: float) -> Tensor:
    """Logs of scales, bent to stay in (-limit, limit) with a slope everywhere: no scale vanishes or explodes."""
    return limit * torch.tanh(values / limit)
