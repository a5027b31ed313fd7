from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen import work
from metagen.errors import UserError
from metagen.flat import FlatNetwork
from metagen.generators import ArchitectureConfig, Condition
from metagen.generators.flow import Flow, FlowOptions
from metagen.seeding import torch_generator

MEAN, STD = 0.1, 0.2
ARCH = ArchitectureConfig(patch=4, widths=(16,), embedding=16)


def _flow(**options: Any) -> Flow:
    values = {"data_mean": MEAN, "data_std": STD, **options}
    return Flow(ARCH, FlowOptions.parse(values), channels=1, image_size=16)


def _silent(flow: Flow) -> nn.Module:
    """A network whose output is zero: the preconditioning alone makes the velocity."""
    network = FlatNetwork(work.initialised(flow, 0), torch.device("cpu"), torch.float32)
    network.load(torch.zeros(network.layout.size))
    return network.module


def _loud(flow: Flow) -> nn.Module:
    """A network with random weights everywhere."""
    network = FlatNetwork(work.initialised(flow, 0), torch.device("cpu"), torch.float32)
    network.load(network.initial + 0.05 * torch.randn(network.layout.size, generator=torch_generator("weights")))
    return network.module


def _condition(groups: int = 1) -> Condition:
    return Condition.of_tasks(torch.rand(groups, 3, 1, 16, 16, generator=torch_generator("support")) * 2 - 1)


def _gaussian(count: int) -> Tensor:
    return MEAN + STD * torch.randn(count, 1, 16, 16, generator=torch_generator("data"))


@pytest.mark.parametrize("time", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_without_a_network_the_velocity_is_the_best_linear_guess(time: float) -> None:
    """On Gaussian data the loss is the variance of ``x - z`` given ``x_t``, which no guess can go below."""
    flow, count = _flow(), 400
    images, noise = _gaussian(count), torch.randn(count, 1, 16, 16, generator=torch_generator("noise"))
    draw = {"time": torch.full((count,), time), "noise": noise}
    with torch.no_grad():
        losses = flow.losses(_silent(flow), _condition(), images, draw)
    x_t, target = ((1 - time) * noise + time * images).flatten().double(), (images - noise).flatten().double()
    design = torch.stack([x_t, torch.ones_like(x_t)], dim=1)
    best = torch.linalg.lstsq(design, target[:, None]).solution
    least = float((design @ best - target[:, None]).square().mean())
    exact = STD**2 / ((1 - time) ** 2 + time**2 * STD**2)
    assert float(losses.mean()) == pytest.approx(least, rel=1e-3)
    assert float(losses.mean()) == pytest.approx(exact, rel=0.02)


def test_a_draw_has_one_time_in_each_slice_of_probability_and_unit_noise() -> None:
    flow, count = _flow(), 256
    draw = flow.draw(count, torch_generator("draw"))
    assert draw["time"].shape == (count,)
    assert draw["noise"].shape == (count, 1, 16, 16)
    uniform = torch.special.ndtr(draw["time"].double().logit())
    assert sorted((uniform * count).floor().int().tolist()) == list(range(count))
    assert not torch.equal(draw["time"], draw["time"].sort().values)
    assert 0 < float(draw["time"].min()) < float(draw["time"].max()) < 1
    assert float(draw["noise"].mean()) == pytest.approx(0, abs=0.02)
    assert float(draw["noise"].std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_draw_depends_on_its_generator_alone(count: int) -> None:
    flow = _flow()
    one, same, other = (flow.draw(count, torch_generator("draw", seed)) for seed in (1, 1, 2))
    for name in ("time", "noise"):
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], other[name])


def test_a_loss_does_not_depend_on_what_else_is_in_the_batch() -> None:
    flow = _flow()
    network, condition = _loud(flow), _condition(groups=3)
    images = _gaussian(6)
    draw = flow.draw(6, torch_generator("draw"))
    with torch.no_grad():
        together = flow.losses(network, condition, images, draw)
        again = flow.losses(network, condition, images, draw)
        for image in range(6):
            members = condition.members[image // 2][None]
            single = {name: value[image][None] for name, value in draw.items()}
            alone = flow.losses(network, Condition(condition.support, members), images[image][None], single)
            assert float(alone) == pytest.approx(float(together[image]), rel=1e-4)
    assert torch.equal(together, again)


def test_the_loss_weighs_all_pixels_of_an_image_alike() -> None:
    flow = _flow()
    images = _gaussian(2)
    draw = {"time": torch.full((2,), 0.5), "noise": torch.zeros(2, 1, 16, 16)}
    with torch.no_grad():
        losses = flow.losses(_silent(flow), _condition(), images, draw)
        moved = images.roll((3, 5), dims=(2, 3))
        assert torch.allclose(flow.losses(_silent(flow), _condition(), moved, draw), losses)


def _sampling_errors(std: float, counts: tuple[int, ...], sampler: str) -> list[float]:
    """How far samples are from ``mean + std z``, where the best velocity takes each ``z``."""
    exact = (MEAN + std * torch.randn(8, 1, 16, 16, generator=torch_generator("sample"))).clamp(-1, 1)
    errors = []
    for steps in counts:
        flow = _flow(sampler=sampler, sample_steps=steps, data_std=std)
        samples = flow.sample(_silent(flow), _condition(), 8, torch_generator("sample"))
        errors.append(float((samples[0] - exact).square().mean().sqrt()))
    return errors


@pytest.mark.parametrize("std", [0.3, 0.8])
def test_samples_converge_to_the_exact_solution_on_gaussian_data(std: float) -> None:
    euler, heun = (_sampling_errors(std, (5, 10, 20, 40, 80), sampler) for sampler in ("euler", "heun"))
    for errors in (euler, heun):
        assert all(later < earlier / 1.25 for earlier, later in itertools.pairwise(errors))
    assert all(second < first for first, second in zip(euler, heun, strict=True))
    assert heun[-1] < 0.03


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_samples_have_the_datas_mean_and_deviation(sampler: str) -> None:
    flow = _flow(sampler=sampler, data_std=0.3, sample_steps=40)
    samples = flow.sample(_silent(flow), _condition(), 32, torch_generator("sample"))
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(samples.std()) == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampling_gives_images_in_range_and_one_seed_gives_one_sample(sampler: str, steps: int) -> None:
    flow = _flow(sampler=sampler, sample_steps=steps)
    network, condition = _loud(flow), _condition(groups=2)
    one, same, other = (flow.sample(network, condition, 3, torch_generator("sample", seed)) for seed in (1, 1, 2))
    assert one.shape == (2, 3, 1, 16, 16)
    assert one.abs().max() <= 1
    assert torch.isfinite(one).all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not one.requires_grad


def test_samples_follow_the_support_set() -> None:
    flow = _flow()
    network, condition = _loud(flow), _condition(groups=2)
    other = Condition(-condition.support, condition.members)
    here, there = (flow.sample(network, c, 2, torch_generator("sample")) for c in (condition, other))
    assert not torch.allclose(here, there, atol=1e-3)


def test_guidance_pushes_away_from_the_unconditioned_model_and_is_nothing_without_a_set() -> None:
    network, condition = _loud(_flow()), _condition()
    empty = Condition(condition.support, torch.zeros_like(condition.members))

    def samples(guidance: float, condition: Condition) -> Tensor:
        return _flow(guidance=guidance, sample_steps=4).sample(network, condition, 4, torch_generator("sample"))

    alone = samples(1.0, empty)
    assert torch.allclose(samples(3.0, empty), alone, atol=1e-5)
    assert torch.allclose(samples(0.0, condition), alone, atol=1e-5)
    distances = [float((samples(guidance, condition) - alone).norm()) for guidance in (0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    assert distances[0] > 1e-3


@pytest.mark.parametrize(
    ("conditioning", "guidance", "calls"), [("none", 2.0, 1), ("spatial", 1.0, 1), ("spatial", 2.0, 2)]
)
def test_the_network_is_asked_twice_a_step_only_where_a_set_guides_it(
    conditioning: str, guidance: float, calls: int
) -> None:
    arch = ARCH.model_copy(update={"set_conditioning": conditioning})
    flow = Flow(arch, FlowOptions(sampler="euler", sample_steps=4, guidance=guidance), channels=1, image_size=16)
    network, asked = flow.build(), []
    network.register_forward_hook(lambda *_: asked.append(1))
    flow.sample(network, _condition(), 2, torch_generator("sample"))
    assert len(asked) == 4 * calls


@pytest.mark.parametrize("values", [{"sampler": "rk4"}, {"sample_steps": 0}, {"data_std": 0}, {"guidance": -1}])
def test_impossible_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        FlowOptions.parse(values)
