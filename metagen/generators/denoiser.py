"""What families share that make an image out of noise step by step: the network, its calls, and guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from metagen.generators import mlp
from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Family
from metagen.generators.network import Features, SetConditionedUNet, context_of, prepared, wide
from metagen.strict import Strict

Estimate = Callable[[Tensor, float], Tensor]
"""What the network makes of images ``[B, C, H, W]`` that are all at one time or noise level."""


class DenoiserOptions(Strict):
    """What every such family can be asked beside its architecture."""

    sample_steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(2.0, ge=0)
    """How far samples are pushed towards the support set: 1 draws from the model as it is; more needs a model
    that was trained to do without a support set now and then (``drop_condition``)."""
    data_mean: float = -0.5
    data_std: float = Field(0.8, gt=0)
    """Mean and standard deviation of the training images' pixels in [-1, 1], for the preconditioning."""


class Denoiser(Family):
    """The base of these families: each adds its loss, what its network estimates, and how that is integrated."""

    options: DenoiserOptions

    least_squares = "out"

    def __init__(self, arch: ArchitectureConfig, options: DenoiserOptions, channels: int, image_size: int) -> None:
        if arch.network == "mlp":
            mlp.check(arch, type(self).__name__.lower())
        else:
            arch.check_image_size(image_size)
        self.arch, self.options = arch, options
        self.channels, self.image_size = channels, image_size

    def build(self) -> nn.Module:
        network = mlp.SetConditionedMlp if self.arch.network == "mlp" else SetConditionedUNet
        return network(self.arch, self.channels, self.image_size)

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Unit noise ``[count, C, H, W]``."""
        return torch.randn(count, self.channels, self.image_size, self.image_size, generator=rng)

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """Solve from noise, guided: ``lerp(without, with, guidance)`` of what the network estimates.

        Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).
        """
        groups = condition.members.shape[0]
        noise = self.noise(groups * count, rng).to(condition.support.device)
        context = context_of(network, condition)
        alone = context_of(network, Condition(condition.support, torch.zeros_like(condition.members)))
        plain = self.options.guidance == 1 or self.arch.set_conditioning == "none"  # nothing to be guided by

        def guided(x: Tensor, level: float) -> Tensor:
            levels = x.new_full((len(x),), level)
            estimate = self.estimate(network, x, levels, context)
            if plain:
                return estimate
            return torch.lerp(self.estimate(network, x, levels, alone), estimate, self.options.guidance)

        return self.solve(noise, guided).clamp(-1, 1).unflatten(0, (groups, count))

    def estimate(self, network: nn.Module, x: Tensor, level: Tensor, context: Features) -> Tensor:
        """What the network estimates at ``x [B, C, H, W]`` and times or noise levels ``[B]``."""
        raise NotImplementedError

    def solve(self, noise: Tensor, estimate: Estimate) -> Tensor:
        """From unit noise to images, both ``[B, C, H, W]``."""
        raise NotImplementedError


def stratified(count: int, rng: torch.Generator) -> Tensor:
    """``count`` uniform numbers, one in each of ``count`` equal slices of (0, 1), in random order.

    As times of losses they leave the mean as it is and remove much of its variance.
    """
    strata = torch.randperm(count, generator=rng) + torch.rand(count, generator=rng)
    return (strata / count).clamp(1e-4, 1 - 1e-4)


def passed(network: nn.Module, inputs: Tensor, time: Tensor, context: Features) -> Tensor:
    """``inputs [B, C, H, W]`` through the network at times ``[B]`` in [0, 1], in its own dtype."""
    return wide(network(prepared(network, inputs), time, context))


def across(values: Tensor) -> Tensor:
    """One value an image ``[B]``, shaped to act on all its pixels: ``[B, 1, 1, 1]``."""
    return values[:, None, None, None]
