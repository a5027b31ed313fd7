"""Diffusion in discrete steps made continuous: cosine schedule, v-prediction, DDIM (family ``diffusion``).

Ho et al. 2020, arXiv:2006.11239 (the process); Nichol & Dhariwal 2021, arXiv:2102.09672 (the schedule);
Salimans & Ho 2022, arXiv:2202.00512 (v-prediction); Song et al. 2021, arXiv:2010.02502 (DDIM).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.denoiser import Denoiser, DenoiserOptions, Estimate, across, passed, stratified
from metagen.generators.family import Condition, Draw
from metagen.generators.network import Features, context_of


class DiffusionOptions(DenoiserOptions):
    """What the diffusion family can be asked beside its architecture."""


class Diffusion(Denoiser):
    """Noise is mixed into an image on a circle: ``x_t = a y + b e``, ``a = cos(pi t / 2)``, ``b = sin(pi t / 2)``.

    ``y = (x - data_mean) / data_std`` is the image with pixels of mean 0 and variance 1, ``e`` is unit noise, and
    the network learns the direction along the circle, ``v = a e - b y``. For such ``y``, ``x_t`` and ``v`` have
    unit variance at every ``t`` and no correlation: v-prediction is then already preconditioned, input and output
    alike (Salimans & Ho 2022, appendix D). From ``v`` follow ``y = a x_t - b v`` and ``e = b x_t + a v``.
    """

    Options = DiffusionOptions
    options: DiffusionOptions

    def __init__(self, arch: ArchitectureConfig, options: DiffusionOptions, channels: int, image_size: int) -> None:
        super().__init__(arch, options, channels, image_size)
        self.metric = f"v error (mean square, pixels over {options.data_std:g})"

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Noise ``e`` and times ``t``, uniform."""
        return {"time": stratified(count, rng), "noise": self.noise(count, rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """Mean square error of ``v`` over pixels, one an image: ``[B]``."""
        time, noise = draw["time"], draw["noise"]
        a, b = (across(part) for part in _circle(time))
        clean = (images - self.options.data_mean) / self.options.data_std
        v = self.estimate(network, a * clean + b * noise, time, context_of(network, condition))
        return (v - (a * noise - b * clean)).square().mean((1, 2, 3))

    def solve(self, noise: Tensor, estimate: Estimate) -> Tensor:
        """DDIM from ``t = 1`` to ``t = 0`` (Song et al. 2021, eq. 12 with sigma = 0): ``x_s = a_s y + b_s e``."""
        mean, std = self.options.data_mean, self.options.data_std
        times = torch.linspace(1, 0, self.options.sample_steps + 1)
        cosines, sines = (part.tolist() for part in _circle(times))
        x = noise
        for step, time in enumerate(times[:-1].tolist()):
            a, b = cosines[step], sines[step]
            # No pixel is outside [-1, 1] (Ho et al. 2020 clip alike): keeps guidance from overshooting.
            clean = (a * x - b * estimate(x, time)).clamp((-1 - mean) / std, (1 - mean) / std)
            x = cosines[step + 1] * clean + sines[step + 1] * (x - a * clean) / b
        return mean + std * x

    def estimate(self, network: nn.Module, x: Tensor, level: Tensor, context: Features) -> Tensor:
        """``v`` at ``x_t`` and times ``t``."""
        return passed(network, x, level, context)


def _circle(time: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of image and noise, ``cos`` and ``sin`` of ``pi t / 2``."""
    angle = time * (math.pi / 2)
    return angle.cos(), angle.sin()
