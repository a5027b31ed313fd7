"""A set-conditioned variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; conditional prior: Sohn et
al. 2015, *Learning structured output representation using deep conditional generative models*; a prior of exemplars:
Norouzi et al. 2020, arXiv:2004.04795)."""

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
    conv,
    pool,
    prepared,
    shown,
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
    """Spread of the ``z`` around the image that is varied, as a share of the prior's."""


class Vae(Family):
    """Latents ``z`` of an image, images of a latent, both given the support set ``S``::

        prior p(z | S),   likelihood p(x | z, S),   posterior q(z | x, S)
        ln p(x | S) >= E_q [ln p(x | z, S) + ln p(z | S) - ln q(z | x, S)]

    The posterior is a diagonal normal distribution, the prior one such around each image of ``S``, in equal shares: a
    new image is a variation of one that was shown, not of their mean. A pixel is a discretised logistic, so that bounds
    are probabilities of 8-bit images, here in bits a dimension (pixel and channel).
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
        [weight] = self._weights(network, condition, images, draw["noise"][:, :1])
        return -weight / self.nats

    @torch.no_grad()
    def scores(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """The negative importance-weighted bound on ``ln p(x | S)`` in bits/dim: ``[B]``."""
        weights = self._weights(network, condition, images, draw["noise"])
        return -importance_weighted_bound(torch.stack(weights)) / self.nats

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """Latents of the prior, decoded; an image shows each pixel's median, for the noise of pixels is no detail.

        The images shown take turns at being varied, in a random order.
        """
        assert isinstance(network, Autoencoder)
        features = shown(network, condition)
        z = network.prior(features, condition.members).draw(count, self.options.temperature, rng)
        location, _ = network.decode(z.flatten(0, 1), pool(features, condition.members))
        return location.clamp(-1, 1).unflatten(0, z.shape[:2])

    def _weights(self, network: nn.Module, condition: Condition, images: Tensor, noise: Tensor) -> list[Tensor]:
        """``ln p(x, z | S) - ln q(z | x, S)`` in nats, each ``[B]``, at the latent of each of ``noise [B, k, Z]``."""
        assert isinstance(network, Autoencoder)
        features = shown(network, condition)
        context = pool(features, condition.members)
        prior, posterior = network.prior(features, condition.members), network.posterior(images, context)
        latents = [posterior.at(part) for part in noise.unbind(1)]
        return [self._likelihood(network, images, z, context) + prior.log(z) - posterior.log(z) for z in latents]

    def _likelihood(self, network: nn.Module, images: Tensor, z: Tensor, context: Features) -> Tensor:
        """``ln p(x | z, S)`` in nats: ``[B]``."""
        assert isinstance(network, Autoencoder)
        return log_probability(images, *network.decode(z, context)).sum((1, 2, 3))


@dataclass(frozen=True)
class Normal:
    """Diagonal normal distributions over ``z [..., Z]``."""

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """The point that unit noise ``[..., Z]`` becomes."""
        return self.mean + self.log_std.exp() * noise

    def log(self, z: Tensor) -> Tensor:
        """Log density: ``[...]``."""
        square = ((z - self.mean) * (-self.log_std).exp()).square()
        return -(0.5 * square + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class Mixture:
    """``T`` mixtures of normal distributions over ``z [Z]``, each in equal shares of some of its ``N`` parts."""

    parts: Normal
    """``[T, N, Z]``."""
    members: Tensor
    """Which parts count, 0 or 1: ``[T, N]``."""

    def log(self, z: Tensor) -> Tensor:
        """Log density of ``z [B, Z]``, ``T`` equal groups in order: ``[B]``."""
        shares = (self.members / self.members.sum(1, keepdim=True)).log()[:, None]  # ln 0 for those not shown
        grouped = z.unflatten(0, (len(self.members), -1))[:, :, None]
        parts = Normal(self.parts.mean[:, None], self.parts.log_std[:, None])
        return torch.logsumexp(parts.log(grouped) + shares, dim=2).flatten()

    def draw(self, count: int, temperature: float, rng: torch.Generator) -> Tensor:
        """``count`` latents of each mixture, ``[T, count, Z]``, with ``temperature`` times the spread of its parts.

        Parts take turns in a random order, so that each has its share.
        """
        T, N, Z = self.parts.mean.shape
        device, members = self.parts.mean.device, self.members.cpu()
        order = (torch.rand(T, N, generator=rng) + 2.0 * members).argsort(dim=1, descending=True)
        turns = torch.arange(count) % members.sum(1, keepdim=True).long()
        rows = order.gather(1, turns).to(device)[:, :, None].expand(T, count, Z)
        chosen = Normal(self.parts.mean.gather(1, rows), self.parts.log_std.gather(1, rows))
        return chosen.at(temperature * torch.randn(T, count, Z, generator=rng).to(device))


class Autoencoder(SetConditioned):
    """Set encoder, prior, encoder and decoder in one module. Without images to see the prior is the unit normal."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int, latent: int) -> None:
        super().__init__()
        self.act, self.latent = ACTIVATIONS[arch.activation], latent
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        if self.set is not None:
            features = arch.embedding
            if self.set.spatial:  # where strokes lie is in the maps alone
                self.narrow = conv(self.set.widths[-1], CHANNELS, 1)
                features += CHANNELS * coarsest(arch, image_size) ** 2
            self.prior_image = nn.Linear(features, arch.embedding)
            self.prior_set = nn.Linear(arch.embedding, arch.embedding)
            self.prior_out = nn.Linear(arch.embedding, 2 * latent)
        self.encoder = Encoder(arch, self.set, channels, image_size, 2 * latent)
        self.decoder = Decoder(arch, self.set, 2 * channels, image_size, latent)

    def prior(self, features: Features, members: Tensor) -> Mixture:
        """``p(z | S)`` of each group of ``members [T, N]``, with what ``encode`` told of each support image.

        A group that sees nothing, and every group where there is no set encoder, has the unit normal.
        """
        blank = 1.0 - members.amax(1, keepdim=True)
        unit = members.new_zeros(len(members), 1, self.latent)
        if not features:
            return Mixture(Normal(unit, unit), torch.ones_like(blank))
        *maps, vectors = features
        coarse = [self.narrow(each).flatten(1) for each in maps[-1:]]  # the coarsest, if there are maps at all
        images = self.prior_image(self.act(torch.cat([vectors, *coarse], dim=1)))
        [sets] = pool([vectors], members)
        around = _normal(self.prior_out(self.act(images + self.prior_set(self.act(sets))[:, None])))
        parts = Normal(torch.cat([around.mean, unit], dim=1), torch.cat([around.log_std, unit], dim=1))
        return Mixture(parts, torch.cat([members, blank], dim=1))

    def posterior(self, images: Tensor, context: Features) -> Normal:
        """``q(z | x, S)``."""
        return _normal(self.encoder(prepared(self, images), context))

    def decode(self, z: Tensor, context: Features) -> tuple[Tensor, Tensor]:
        """Location and log scale of each pixel's logistic, both ``[B, C, H, W]``."""
        out = self.decoder(z.to(compute_dtype(self)), context)
        location, log_scale = wide(out).chunk(2, dim=1)
        return location, _within(log_scale, 7.0)


def _normal(both: Tensor) -> Normal:
    mean, log_std = wide(both).chunk(2, dim=-1)
    return Normal(mean, _within(log_std, 5.0))


def _within(values: Tensor, limit: float) -> Tensor:
    """Logs of scales, bent to stay in (-limit, limit) with a slope everywhere: no scale vanishes or explodes."""
    return limit * torch.tanh(values / limit)
