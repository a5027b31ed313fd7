"""Rectified flow: the default family (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Draw
from metagen.generators.network import SetConditionedUNet, compute_dtype, pool
from metagen.strict import Strict


class FlowOptions(Strict):
    """What the flow family can be asked beside its architecture."""

    sampler: Literal["euler", "heun"] = "heun"
    sample_steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(2.0, ge=0)
    """How far samples are pushed towards the support set: 1 draws from the model as it is; more needs a model
    that was trained to do without a support set now and then (``drop_condition``)."""
    data_mean: float = -0.5
    data_std: float = Field(0.8, gt=0)
    """Mean and standard deviation of the training images' pixels in [-1, 1], for the preconditioning."""


class Flow:
    """Straight paths from noise ``z`` to image ``x``: ``x_t = (1 - t) z + t x``; the network learns ``x - z``.

    The network's input and output are preconditioned as in EDM (Karras et al. 2022, arXiv:2206.00364, eq. 7),
    worked out for the straight path: with pixels of mean ``mu`` and variance ``s^2``, the best linear guess of
    the velocity is ``c_skip (x_t - t mu) + mu`` and the network only learns the rest, scaled to unit variance::

        d = (1 - t)^2 + t^2 s^2,   c_skip = (t s^2 - (1 - t)) / d,   c_out = s / sqrt(d),   c_in = 1 / sqrt(d)
    """

    Options = FlowOptions
    least_squares = "out"

    def __init__(self, arch: ArchitectureConfig, options: FlowOptions, channels: int, image_size: int) -> None:
        arch.check_image_size(image_size)
        self.arch, self.options = arch, options
        self.channels, self.image_size = channels, image_size

    def build(self) -> nn.Module:
        return SetConditionedUNet(self.arch, self.channels, self.image_size)

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Noise ``z`` and times ``t``, logit-normal(0, 1) (Esser et al. 2024, arXiv:2403.03206).

        The times are stratified: one in each of ``count`` equal slices of probability, in random order, which
        leaves the mean as it is and removes much of its variance.
        """
        strata = torch.randperm(count, generator=rng) + torch.rand(count, generator=rng)
        uniform = (strata / count).clamp(1e-4, 1 - 1e-4)
        noise = torch.randn(count, self.channels, self.image_size, self.image_size, generator=rng)
        return {"time": torch.special.ndtri(uniform).sigmoid(), "noise": noise}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """Mean square error of the velocity over pixels, one an image: ``[B]``."""
        time, noise = draw["time"], draw["noise"]
        t = time[:, None, None, None]
        x_t = (1 - t) * noise + t * images
        velocity = self._velocity(network, x_t, time, self._context(network, condition))
        return (velocity - (images - noise)).square().mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """Integrate the velocity from noise at ``t = 0`` to an image at ``t = 1``."""
        groups, steps = condition.members.shape[0], self.options.sample_steps
        shape = (groups * count, self.channels, self.image_size, self.image_size)
        x = torch.randn(shape, generator=rng).to(condition.support.device)
        context = self._context(network, condition)
        alone = self._context(network, Condition(condition.support, torch.zeros_like(condition.members)))

        def slope_at(x: Tensor, time: float) -> Tensor:
            """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6)."""
            times = x.new_full((len(x),), time)
            slope = self._velocity(network, x, times, context)
            if self.options.guidance == 1:
                return slope
            return torch.lerp(self._velocity(network, x, times, alone), slope, self.options.guidance)

        # Steps of equal logit-normal probability: short where the loss was dense, the path most curved.
        quantiles = torch.linspace(0, 1, steps + 1)
        times = torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6)).sigmoid()
        times[0], times[-1] = 0.0, 1.0
        for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            h = then - now
            slope = slope_at(x, now)
            ahead = x + h * slope
            # No corrector at the end: times so near 1 were hardly seen in training, and it leaves specks.
            if self.options.sampler == "heun" and then < 1:
                slope = (slope + slope_at(ahead, then)) / 2
                ahead = x + h * slope
            x = ahead
        return x.clamp(-1, 1).unflatten(0, (groups, count))

    def _context(self, network: nn.Module, condition: Condition) -> list[Tensor]:
        support = condition.support.to(compute_dtype(network)).contiguous(memory_format=torch.channels_last)
        assert isinstance(network, SetConditionedUNet)
        return pool(network.encode(support), condition.members)

    def _velocity(self, network: nn.Module, x_t: Tensor, time: Tensor, context: list[Tensor]) -> Tensor:
        mean, std, t = self.options.data_mean, self.options.data_std, time[:, None, None, None]
        variance = (1 - t).square() + (t * std).square()
        centred = x_t - t * mean
        inputs = (centred * variance.rsqrt()).to(compute_dtype(network)).contiguous(memory_format=torch.channels_last)
        out = network(inputs, time, context).float()
        velocity: Tensor = mean + (t * std**2 - (1 - t)) / variance * centred + std * variance.rsqrt() * out
        return velocity
