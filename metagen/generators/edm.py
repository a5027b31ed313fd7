"""Diffusion as EDM designs it: preconditioned denoiser, log-normal noise levels, Heun's method (family ``edm``).

Karras et al. 2022, *Elucidating the design space of diffusion-based generative models*, arXiv:2206.00364.
Equations and table 1 below are that paper's.
"""

from __future__ import annotations

import itertools

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.denoiser import Denoiser, DenoiserOptions, Estimate, across, passed, stratified
from metagen.generators.family import Condition, Draw
from metagen.generators.network import Features, context_of


class EdmOptions(DenoiserOptions):
    """What the edm family can be asked beside its architecture."""

    noise_mean: float = -0.4
    noise_std: float = Field(1.2, gt=0)
    """Mean and standard deviation of ``ln sigma`` in training (``P_mean``, ``P_std``). The paper's -1.2 is for
    photographs; line drawings of few pixels are decided at higher noise."""
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    rho: float = Field(7.0, gt=0)
    """Noise levels of the sampler, and how they crowd towards the lowest."""

    @model_validator(mode="after")
    def _ordered(self) -> EdmOptions:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min: {self.sigma_min} must be below sigma_max {self.sigma_max}")
        return self


class Edm(Denoiser):
    """Noise of level ``sigma`` is added to an image, ``x = y + sigma e``; a denoiser ``D`` gives ``y`` back.

    With pixels of variance ``s^2`` (after ``data_mean`` is subtracted), the network ``F`` sees and gives unit
    variance (eq. 7)::

        D = c_skip x + c_out F(c_in x),   c_skip = s^2 / d,   c_out = sigma s / sqrt(d),   c_in = 1 / sqrt(d)

    with ``d = sigma^2 + s^2``. The weight of the loss is ``1 / c_out^2``, so it is the error of ``F`` (eq. 8). The
    network is told ``s / (s + sigma)``, in [0, 1], in place of ``ln(sigma) / 4``.
    """

    Options = EdmOptions
    options: EdmOptions

    def __init__(self, arch: ArchitectureConfig, options: EdmOptions, channels: int, image_size: int) -> None:
        super().__init__(arch, options, channels, image_size)
        o = options
        self.metric = f"denoising error (over c_out, s {o.data_std:g}, ln sigma {o.noise_mean:g} +- {o.noise_std:g})"

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Noise ``e`` and levels ``sigma``, log-normal (table 1)."""
        normal = torch.special.ndtri(stratified(count, rng))
        sigma = (self.options.noise_mean + self.options.noise_std * normal).exp()
        return {"sigma": sigma, "noise": self.noise(count, rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """Weighted mean square error of the denoised image over pixels, one an image (eq. 8): ``[B]``."""
        level, s = draw["sigma"], self.options.data_std
        clean = images - self.options.data_mean
        denoised = self.estimate(network, clean + across(level) * draw["noise"], level, context_of(network, condition))
        weight = (level.square() + s**2) / (level * s).square()
        return weight * (denoised - clean).square().mean((1, 2, 3))

    def solve(self, noise: Tensor, estimate: Estimate) -> Tensor:
        """Heun's method on ``dx / dsigma = (x - D) / sigma`` from ``sigma_max`` to 0 (algorithm 1, eq. 5)."""
        o = self.options
        ramp = torch.linspace(0, 1, o.sample_steps, dtype=torch.float64)
        low, high = o.sigma_min ** (1 / o.rho), o.sigma_max ** (1 / o.rho)
        levels = [*((high + ramp * (low - high)) ** o.rho).tolist(), 0.0]
        x = levels[0] * noise
        for now, then in itertools.pairwise(levels):
            slope = (x - estimate(x, now)) / now
            ahead = x + (then - now) * slope
            if then > 0:
                slope = (slope + (ahead - estimate(ahead, then)) / then) / 2
                ahead = x + (then - now) * slope
            x = ahead
        return o.data_mean + x

    def estimate(self, network: nn.Module, x: Tensor, level: Tensor, context: Features) -> Tensor:
        """The denoised image, less ``data_mean``, at ``x`` and noise levels ``sigma``."""
        s, sigma = self.options.data_std, across(level)
        variance = sigma.square() + s**2
        out = passed(network, x * variance.rsqrt(), s / (s + level), context)
        return s**2 / variance * x + sigma * s * variance.rsqrt() * out
