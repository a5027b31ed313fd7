"""Generative adversarial networks: two players in one module, one flat vector, one inner loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metagen.generators.adversarial import Play, pairing, wasserstein
from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Draw, Family
from metagen.generators.gan_network import Players
from metagen.generators.network import Features, compute_dtype, context_of, pool, prepared, wide
from metagen.metrics.energy import energy_score
from metagen.strict import Strict
from metagen.tasks.augment import AugmentConfig, altered_by, amounts, translated

SCORED = 8
"""Generated images that a score is taken over."""


class GanOptions(Strict):
    """What the gan family can be asked beside its architecture."""

    loss: Literal["pairing", "wasserstein"] = "pairing"
    """Relativistic pairing with R1 and R2 (R3GAN), or WGAN-GP."""
    penalty: float = Field(2.0, ge=0)
    """Weight of the gradient penalties: ``gamma`` of R3GAN, ``lambda`` of WGAN-GP (10 in its paper)."""
    penalty_every: int = Field(1, ge=1, le=1000)
    """Of so many pairs one bears the penalty, that many times as heavily: the same field on average, for less work
    (lazy regularisation, Karras et al. 2020, arXiv:1912.04958, section 3.1, over pairs instead of steps)."""
    latent: int = Field(64, ge=1, le=4096)
    temperature: float = Field(1.0, gt=0, le=2)
    """Scale of the latents that ``sample`` draws: below 1, variety is traded for likeness (Brock et al. 2019,
    arXiv:1809.11096, section 3.1). Losses and scores draw at 1."""
    critic_rate: float = Field(1.0, gt=0)
    """How many times as far a step moves the critic as the generator, under every rule whose steps have a size of
    their own (adam, sign, muon), in the inner loop and in the outer one."""
    energy: float = Field(10.0, ge=0)
    """Weight of the energy score in the generator's loss: 0 leaves all to the critic."""
    translate: int = Field(0, ge=0, le=64)
    """Largest random shift, in pixels, of real and generated images alike before the critic sees them (DiffAugment,
    Zhao et al. 2020, arXiv:2006.10738)."""
    augment: AugmentConfig = AugmentConfig()
    """Random alterations of real and generated images alike before the critic sees them, each pair by the same."""


class Gan(Family):
    """Generator ``y = G(z, S)`` and critic ``D(x, S)``, both conditioned on the support set ``S``.

    ``losses`` is a field, not the gradient of a loss: one backward pass gives the critic's weights the gradient of
    the critic's loss and the generator's weights that of the generator's, each with the other player held fixed
    (the simultaneous step). So what differentiates the gradient again has no meaning here: ``first_order_only``.

    Its *value* is the energy score of two generated images against each query or support image: unlike the
    players' own losses, which stand still while both improve, it falls as images get better.
    """

    Options = GanOptions
    batched = False  # which pairs bear the penalty, and how far images are shifted, is drawn
    first_order_only = "its gradient is the field of two players, not the gradient of one loss"
    metric = f"energy score of {SCORED} images (rms of pixels in [-1, 1])"

    def __init__(self, arch: ArchitectureConfig, options: GanOptions, channels: int, image_size: int) -> None:
        arch.check_convolutional("gan")
        arch.check_image_size(image_size)
        self.arch, self.options = arch, options
        self.channels, self.image_size = channels, image_size

    def build(self) -> nn.Module:
        players = Players(self.arch, self.channels, self.image_size, self.options.latent)
        # The critic computes with ``critic_rate`` times what is stored (as in Karras et al. 2019's mapping network,
        # arXiv:1812.04948, appendix C): a step of given size moves it that many times as far.
        with torch.no_grad():
            for parameter in players.critic.parameters():
                parameter.div_(self.options.critic_rate)
        return players

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Latents ``[B, SCORED, Z]``, mixtures for WGAN-GP, how far each pair is shifted and altered, and which pairs
        bear the penalty: every so many, from a random one on, hence each image alike where its draws follow."""
        reach, augment, every = self.options.translate, self.options.augment, self.options.penalty_every
        draw = {
            "latent": torch.randn(count, SCORED, self.options.latent, generator=rng),
            "mix": torch.rand(count, generator=rng),
            "shift": torch.randint(-reach, reach + 1, (count, 2), generator=rng),
        }
        if every > 1:
            draw["bears"] = (torch.arange(count) + torch.randint(every, (1,), generator=rng)) % every == 0
        return draw | (amounts(count, augment, rng) if augment.on else {})

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """The two players' field, with the energy score of two generated images as its value: ``[B]``."""
        assert isinstance(network, Players)
        made = self._generated(network, condition, draw["latent"][:, :2])
        energy = energy_score(images, made)
        if not torch.is_grad_enabled():
            return energy
        real, fake = (self._shown(x, draw) for x in (images, made[:, 0]))
        critic, pull = self._game(network, condition, real, fake, draw)
        field = critic + (pull * fake).sum((1, 2, 3)) + self.options.energy * energy
        return energy.detach() + (field - field.detach())

    @torch.no_grad()
    def scores(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """The energy score of ``SCORED`` generated images against each image: ``[B]``, lower is better.

        Its mean over queries is half the energy distance between generated and query images, plus a constant of
        the queries alone. It does not ask the critic. (``metagen/metrics/energy.py``)
        """
        assert isinstance(network, Players)
        return energy_score(images, self._generated(network, condition, draw["latent"]))

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """One pass of the generator."""
        assert isinstance(network, Players)
        groups = len(condition.members)
        latent = self.options.temperature * torch.randn(groups, count, self.options.latent, generator=rng)
        return self._generated(network, condition, latent.to(condition.support.device))

    def _game(self, network: Players, condition: Condition, real: Tensor, fake: Tensor, draw: Draw) -> Play:
        """The players' field on all pairs, the penalty on those that bear it."""
        penalty, every = self.options.penalty, self.options.penalty_every
        context, score = self._critic(network, condition)

        def play(context: Features, pairs: Tensor | slice, penalty: float) -> Play:
            def scores(images: Tensor) -> Tensor:
                return score(images, context)

            if self.options.loss == "pairing":
                return pairing(scores, real[pairs], fake[pairs], penalty)
            return wasserstein(scores, real[pairs], fake[pairs], draw["mix"][pairs], penalty)

        if every == 1 or not penalty:
            return play(context, slice(None), penalty)
        critic, pull = play(context, slice(None), 0.0)
        (bearing,) = draw["bears"].nonzero(as_tuple=True)
        if not len(bearing):
            return Play(critic, pull)
        # The critic looks at these a second time, each pair beside its own group's set.
        own = [part[bearing // (len(real) // len(part))] for part in context]
        return Play(critic.index_put((bearing,), play(own, bearing, every * penalty).critic), pull)

    def _shown(self, images: Tensor, draw: Draw) -> Tensor:
        """What the critic sees of ``images [B, C, H, W]``: the same draw alters real and generated ones alike."""
        images = translated(images, draw["shift"])
        return altered_by(images, draw) if self.options.augment.on else images

    def _generated(self, network: Players, condition: Condition, latent: Tensor) -> Tensor:
        """Images ``[B, S, C, H, W]`` of latents ``[B, S, Z]``."""
        context = context_of(network.generator, condition)
        made = network.generator(latent.flatten(0, 1).to(compute_dtype(network)), context)
        return wide(made).unflatten(0, latent.shape[:2])

    def _critic(self, network: Players, condition: Condition) -> tuple[Features, Callable[[Tensor, Features], Tensor]]:
        """What the critic sees of the sets, and its scores of images beside such a context."""
        critic = network.critic
        features = [] if critic.set is None else self._scaled(critic.set)(prepared(critic, condition.support))
        score = self._scaled(critic)

        def scores(images: Tensor, context: Features) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                return wide(score(prepared(critic, images), context))

        return pool(features, condition.members), scores

    def _scaled(self, module: nn.Module) -> Callable[..., Any]:
        """A part of the critic, computing with ``critic_rate`` times its weights."""
        rate = self.options.critic_rate
        if rate == 1:
            return module
        weights = {name: rate * value for name, value in module.named_parameters()}
        return lambda *arguments: functional_call(module, weights, arguments)
