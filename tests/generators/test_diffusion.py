"""The two diffusion families on Gaussian data, where the best denoiser is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen import work
from metagen.errors import UserError
from metagen.flat import FlatNetwork
from metagen.generators import ArchitectureConfig, Condition
from metagen.generators.denoiser import Denoiser
from metagen.generators.diffusion import Diffusion, DiffusionOptions
from metagen.generators.edm import Edm, EdmOptions
from metagen.seeding import torch_generator

MEAN, STD = 0.1, 0.2
ARCH = ArchitectureConfig(patch=4, widths=(16,), embedding=16)


def _diffusion(**options: Any) -> Diffusion:
    return Diffusion(ARCH, DiffusionOptions.parse({"data_mean": MEAN, "data_std": STD, **options}), 1, 16)


def _edm(**options: Any) -> Edm:
    return Edm(ARCH, EdmOptions.parse({"data_mean": MEAN, "data_std": STD, **options}), 1, 16)


BOTH = pytest.mark.parametrize("make", [_diffusion, _edm])


def _network(family: Denoiser, loudness: float) -> nn.Module:
    """With loudness 0 the output is zero: the preconditioning alone makes the estimate."""
    network = FlatNetwork(work.initialised(family, 0), torch.device("cpu"), torch.float32)
    noise = torch.randn(network.layout.size, generator=torch_generator("weights"))
    network.load(network.initial * bool(loudness) + loudness * noise)
    return network.module


def _condition(groups: int = 1) -> Condition:
    return Condition.of_tasks(torch.rand(groups, 3, 1, 16, 16, generator=torch_generator("support")) * 2 - 1)


def _normal(name: str, count: int) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch_generator(name))


def _least(noisy: Tensor, target: Tensor) -> float:
    """The error of the best linear guess of ``target`` from ``noisy``."""
    x, y = noisy.flatten().double(), target.flatten().double()
    design = torch.stack([x, torch.ones_like(x)], dim=1)
    return float((design @ torch.linalg.lstsq(design, y[:, None]).solution - y[:, None]).square().mean())


@pytest.mark.parametrize("time", [0.02, 0.3, 0.5, 0.9])
def test_without_a_network_v_is_the_best_linear_guess(time: float) -> None:
    family, count = _diffusion(), 400
    images, noise = MEAN + STD * _normal("data", count), _normal("noise", count)
    a, b = math.cos(math.pi / 2 * time), math.sin(math.pi / 2 * time)
    clean = (images - MEAN) / STD
    least = _least(a * clean + b * noise, a * noise - b * clean)
    draw = {"time": torch.full((count,), time), "noise": noise}
    with torch.no_grad():
        losses = family.losses(_network(family, 0), _condition(), images, draw)
    assert float(losses.mean()) == pytest.approx(least, rel=0.02)
    assert float(losses.mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.2, 1.0, 20.0])
def test_without_a_network_the_denoiser_is_the_best_linear_guess(sigma: float) -> None:
    """And the weight makes its error 1 at every noise level."""
    family, count = _edm(), 400
    images, noise = MEAN + STD * _normal("data", count), _normal("noise", count)
    weight = (sigma**2 + STD**2) / (sigma * STD) ** 2
    least = weight * _least(images + sigma * noise, images)
    draw = {"sigma": torch.full((count,), sigma), "noise": noise}
    with torch.no_grad():
        losses = family.losses(_network(family, 0), _condition(), images, draw)
    assert float(losses.mean()) == pytest.approx(least, rel=0.02)
    assert float(losses.mean()) == pytest.approx(1, rel=0.02)


def test_times_and_noise_levels_are_stratified() -> None:
    count = 256
    uniform = _diffusion().draw(count, torch_generator("draw"))["time"].double()
    sigma = _edm(noise_mean=-0.7, noise_std=0.9).draw(count, torch_generator("draw"))["sigma"].double()
    for slices in (uniform, torch.special.ndtr((sigma.log() + 0.7) / 0.9)):
        assert sorted((slices * count).floor().int().tolist()) == list(range(count))


def _errors(make: Callable[..., Denoiser], counts: tuple[int, ...]) -> list[float]:
    """How far samples are from ``mean + std e``, where the exact solution takes each noise ``e``."""
    exact = (MEAN + STD * _normal("sample", 8)).clamp(-1, 1)
    errors = []
    for steps in counts:
        family = make(sample_steps=steps)
        samples = family.sample(_network(family, 0), _condition(), 8, torch_generator("sample"))
        errors.append(float((samples[0] - exact).square().mean().sqrt()))
    return errors


def test_ddims_samples_converge_to_the_exact_solution() -> None:
    """On Gaussian data ``x_t`` stays what it is: each step turns it by ``h`` and keeps ``cos h`` of it."""
    counts = (10, 20, 40, 80)
    errors = _errors(_diffusion, counts)
    assert all(later < earlier / 1.8 for earlier, later in itertools.pairwise(errors))
    for steps, error in zip(counts, errors, strict=True):
        assert error == pytest.approx(STD * (1 - math.cos(math.pi / 2 / steps) ** steps), rel=0.1)


def test_heuns_samples_converge_to_the_exact_solution() -> None:
    errors = _errors(_edm, (10, 20, 40, 80))
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.005


@BOTH
def test_guidance_pushes_away_from_the_unconditioned_model_and_is_nothing_without_a_set(
    make: Callable[..., Denoiser],
) -> None:
    network, condition = _network(make(), 0.05), _condition()
    empty = Condition(condition.support, torch.zeros_like(condition.members))

    def samples(guidance: float, condition: Condition) -> Tensor:
        family = make(guidance=guidance, sample_steps=4)
        return family.sample(network, condition, 4, torch_generator("sample"))

    alone = samples(1.0, empty)
    assert torch.allclose(samples(3.0, empty), alone, atol=1e-4)
    assert torch.allclose(samples(0.0, condition), alone, atol=1e-4)
    distances = [float((samples(guidance, condition) - alone).norm()) for guidance in (0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    assert distances[0] > 1e-3


@BOTH
def test_a_metric_tells_apart_what_does_not_compare(make: Callable[..., Denoiser]) -> None:
    assert make().metric == make(guidance=1.0, sample_steps=3).metric
    assert make().metric != make(data_std=0.5).metric


def test_edms_metric_names_its_noise_levels() -> None:
    assert _edm().metric != _edm(noise_mean=-1.2).metric


@pytest.mark.parametrize(
    "values",
    [{"noise_std": 0}, {"sigma_min": 0}, {"sigma_min": 9, "sigma_max": 1}, {"rho": 0}, {"guidance": -1}],
)
def test_impossible_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        EdmOptions.parse(values)
