"""Rectified flow: the default family (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metagen.generators.denoiser import Denoiser, DenoiserOptions, Estimate, across, passed, stratified
from metagen.generators.family import Condition, Draw
from metagen.generators.network import Features, context_of


class FlowOptions(DenoiserOptions):
    """What the flow family can be asked beside its architecture."""

    sampler: Literal["euler", "heun"] = "heun"


class Flow(Denoiser):
    """Straight paths from noise ``z`` to image ``x``: ``x_t = (1 - t) z + t x``; the network learns ``x - z``.

    The network's input and output are preconditioned as in EDM (Karras et al. 2022, arXiv:2206.00364, eq. 7),
    worked out for the straight path: with pixels of mean ``mu`` and variance ``s^2``, the best linear guess of
    the velocity is ``c_skip (x_t - t mu) + mu`` and the network only learns the rest, scaled to unit variance::

        d = (1 - t)^2 + t^2 s^2,   c_skip = (t s^2 - (1 - t)) / d,   c_out = s / sqrt(d),   c_in = 1 / sqrt(d)
    """

    Options = FlowOptions
    options: FlowOptions
    metric = "velocity error (mean square)"

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Noise ``z`` and times ``t``, logit-normal(0, 1) (Esser et al. 2024, arXiv:2403.03206)."""
        uniform = stratified(count, rng)
        return {"time": torch.special.ndtri(uniform).sigmoid(), "noise": self.noise(count, rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """Mean square error of the velocity over pixels, one an image: ``[B]``."""
        time, noise = draw["time"], draw["noise"]
        t = across(time)
        x_t = (1 - t) * noise + t * images
        velocity = self.estimate(network, x_t, time, context_of(network, condition))
        return (velocity - (images - noise)).square().mean((1, 2, 3))

    def solve(self, noise: Tensor, estimate: Estimate) -> Tensor:
        """Integrate the velocity from noise at ``t = 0`` to an image at ``t = 1``."""
        # Steps of equal logit-normal probability: short where the loss was dense, the path most curved.
        quantiles = torch.linspace(0, 1, self.options.sample_steps + 1)
        times = torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6)).sigmoid()
        times[0], times[-1] = 0.0, 1.0
        x = noise
        for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            h = then - now
            slope = estimate(x, now)
            ahead = x + h * slope
            # No corrector at the end: times so near 1 were hardly seen in training, and it leaves specks.
            if self.options.sampler == "heun" and then < 1:
                slope = (slope + estimate(ahead, then)) / 2
                ahead = x + h * slope
            x = ahead
        return x

    def estimate(self, network: nn.Module, x: Tensor, level: Tensor, context: Features) -> Tensor:
        """The velocity at ``x_t`` and times ``t``."""
        mean, std, t = self.options.data_mean, self.options.data_std, across(level)
        variance = (1 - t).square() + (t * std).square()
        centred = x - t * mean
        out = passed(network, centred * variance.rsqrt(), level, context)
        velocity: Tensor = mean + (t * std**2 - (1 - t)) / variance * centred + std * variance.rsqrt() * out
        return velocity
