from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metagen import work
from metagen.flat import FlatNetwork
from metagen.generators import ArchitectureConfig, Condition
from metagen.generators.flow import Flow, FlowOptions
from metagen.generators.network import pool, time_features
from metagen.seeding import torch_generator

TASKS, SHOTS, QUERIES = 2, 3, 2
BASE: dict[str, Any] = {"patch": 2, "widths": [16, 16], "embedding": 16}
COMBINATIONS: list[dict[str, Any]] = [
    {},
    {"widths": [16, 24], "connectivity": "dense", "skips": False, "resampling": "pool", "normalisation": "none"},
    {"widths": [32], "connectivity": "plain", "attention": True, "set_conditioning": "vector", "kernel": 5},
]


def _network(values: dict[str, Any], channels: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A family and its network with weights away from their zeros, so that every layer is at work."""
    family = Flow(ArchitectureConfig.parse({**BASE, **values}), FlowOptions(), channels, size)
    network = FlatNetwork(work.initialised(family, 0), torch.device("cpu"), dtype)
    noise = torch.randn(network.layout.size, generator=torch_generator("weights"))
    network.load(network.initial + 0.05 * noise)
    return family, network


def _batch(channels: int, size: int) -> tuple[Condition, Tensor]:
    rng = torch_generator("images")
    support = torch.rand(TASKS, SHOTS, channels, size, size, generator=rng) * 2 - 1
    return Condition.of_tasks(support), torch.rand(TASKS * QUERIES, channels, size, size, generator=rng) * 2 - 1


def _check(values: dict[str, Any], channels: int, size: int) -> None:
    family, network = _network(values, channels, size)
    condition, images = _batch(channels, size)
    losses = family.losses(network.module, condition, images, family.draw(len(images), torch_generator("draw")))
    assert losses.shape == (TASKS * QUERIES,)
    assert losses.dtype == torch.float32
    gradient = network.gradient(losses.mean())
    assert torch.isfinite(gradient).all()
    silent = [name for name, part in network.layout.unflatten(gradient).items() if not part.any()]
    assert not silent, "parameters that the loss does not depend on"
    samples = Flow(family.arch, FlowOptions(sample_steps=2), channels, size).sample(
        network.module, condition, 2, torch_generator("sample")
    )
    assert samples.shape == (TASKS, 2, channels, size, size)
    assert samples.abs().max() <= 1


@pytest.mark.parametrize("values", COMBINATIONS, ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()) or "base")
def test_choices_combine_and_every_parameter_takes_part(values: dict[str, Any]) -> None:
    """Each choice alone is tried in ``test_conformance.py``, for every family."""
    _check(values, channels=1, size=16)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 28, 32, 64])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_grey_and_rgb_images_of_many_sizes(channels: int, size: int, patch: int) -> None:
    _check({"patch": patch, "widths": [8]}, channels, size)


@pytest.mark.parametrize("conditioning", ["vector", "spatial"])
def test_the_set_matters_its_order_does_not(conditioning: str) -> None:
    family, network = _network({"set_conditioning": conditioning}, 1, 16)
    condition, images = _batch(1, 16)
    draw = family.draw(len(images), torch_generator("draw"))

    def losses(support: Tensor) -> Tensor:
        with torch.no_grad():
            return family.losses(network.module, Condition(support, condition.members), images, draw)

    here = losses(condition.support)
    shuffled = condition.support[[2, 0, 1, 5, 3, 4]]  # within each task's own images
    assert torch.allclose(losses(shuffled), here, rtol=1e-5)
    swapped = condition.support.flip(0)  # each task gets the other's
    assert not torch.allclose(losses(swapped), here, rtol=1e-3)


@pytest.mark.parametrize("conditioning", ["vector", "spatial"])
def test_a_group_without_members_is_unconditioned(conditioning: str) -> None:
    """Its losses do not depend on the support images, and the other groups' do not depend on it."""
    family, network = _network({"set_conditioning": conditioning}, 1, 16)
    condition, images = _batch(1, 16)
    draw = family.draw(len(images), torch_generator("draw"))
    alone = condition.members.clone()
    alone[0] = 0

    def losses(support: Tensor, members: Tensor) -> Tensor:
        with torch.no_grad():
            return family.losses(network.module, Condition(support, members), images, draw).view(TASKS, QUERIES)

    other = -condition.support
    assert torch.allclose(losses(condition.support, alone)[0], losses(other, alone)[0], rtol=1e-6)
    assert not torch.allclose(losses(condition.support, alone)[1], losses(other, alone)[1], rtol=1e-3)
    assert torch.allclose(
        losses(condition.support, alone)[1], losses(condition.support, condition.members)[1], rtol=1e-5
    )


def test_without_set_conditioning_the_support_is_not_read() -> None:
    family, network = _network({"set_conditioning": "none"}, 1, 16)
    condition, images = _batch(1, 16)
    draw = family.draw(len(images), torch_generator("draw"))
    with torch.no_grad():
        here = family.losses(network.module, condition, images, draw)
        there = family.losses(network.module, Condition(-condition.support, condition.members), images, draw)
    assert torch.equal(here, there)


@pytest.mark.parametrize("skips", [True, False])
def test_skip_connections_lead_past_the_lower_levels(skips: bool) -> None:
    """With nothing coming up from below, the output depends on the input where there are skips, and only there."""
    _, network = _network({"set_conditioning": "none", "skips": skips}, 1, 16)
    x = _batch(1, 16)[1]
    with torch.no_grad():
        for parameter in network.module.ups.parameters():
            parameter.zero_()
        here, there = (network.module(image, torch.full((len(x),), 0.5), []) for image in (x, -x))
    assert torch.equal(here, there) != skips


def test_time_matters_to_the_network() -> None:
    _, network = _network({"set_conditioning": "none"}, 1, 16)
    x = _batch(1, 16)[1]
    with torch.no_grad():
        early, late = (network.module(x, torch.full((len(x),), t), []) for t in (0.1, 0.9))
    assert not torch.allclose(early, late, rtol=1e-2)
    times = time_features(torch.linspace(0, 1, 1001), 64)
    assert times.shape == (1001, 64)
    assert torch.unique(times, dim=0).shape[0] == 1001


def test_pooling_is_the_mean_and_spread_over_the_members() -> None:
    maps = torch.randn(4, 2, 3, 3, generator=torch_generator("maps"), dtype=torch.float64)
    vectors = torch.randn(4, 5, generator=torch_generator("vectors"), dtype=torch.float64)
    members = torch.tensor([[1.0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    pooled_maps, pooled_vectors = pool([maps, vectors], members)
    some = maps[[0, 1, 3]]
    assert torch.allclose(pooled_vectors[0], vectors[[0, 1, 3]].mean(0))
    assert torch.allclose(pooled_maps[0, :2], some.mean(0))
    assert torch.allclose(pooled_maps[0, 2:], some.std(0, correction=0), atol=1e-2)
    assert torch.allclose(pooled_vectors[1], vectors[2])
    assert torch.allclose(pooled_maps[1, :2], maps[2])
    assert not pooled_vectors[2].any()
    assert not pooled_maps[2, :2].any()
    assert pooled_maps.shape == (3, 4, 3, 3)


def test_a_set_of_one_image_has_a_finite_gradient() -> None:
    family, network = _network({}, 1, 16)
    image = _batch(1, 16)[1][:1]
    condition = Condition.leave_one_out(image)
    loss = family.losses(network.module, condition, image, family.draw(1, torch_generator("draw"))).mean()
    assert torch.isfinite(network.gradient(loss)).all()


def test_initial_weights_depend_on_the_seed_alone() -> None:
    family = Flow(ArchitectureConfig.parse(BASE), FlowOptions(), 1, 16)
    before = torch.get_rng_state()
    one, same, other = (
        FlatNetwork(work.initialised(family, seed), torch.device("cpu"), torch.float32).initial for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
