from __future__ import annotations

from typing import Any

import pytest
import torch

from launch.preset import presets
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.generators.dense_conv import FIXED
from metagen.seeding import torch_generator
from metagen.values import override, read_yaml
from metagen.work import build_problem

OTHER = {
    "network": "mlp",
    "patch": 2,
    "blocks": 2,
    "resampling": "pool",
    "connectivity": "residual",
    "skips": True,
    "attention": True,
    "set_conditioning": "vector",
    "set_width": 1.0,
}


def _config(*assignments: str) -> RunConfig:
    return RunConfig.parse(override(read_yaml(presets()["dense-conv"]), ["precision=fp32", *assignments]))


def test_the_preset_is_the_network_it_is_named_after() -> None:
    """Conv 64 3x3, conv 64 3x3, dense 128, dense 28*28, each with biases; binary cross-entropy; Adam at 1e-3."""
    config = _config()
    problem = build_problem(config)
    shapes = [shape for shape in problem.network.layout.shapes if len(shape) > 1]
    assert shapes == [(64, 1, 3, 3), (64, 64, 3, 3), (128, 64 * 28 * 28), (28 * 28, 128)]
    assert problem.network.layout.size == sum(torch.Size(shape).numel() + shape[0] for shape in shapes)
    assert config.generator.architecture.activation == "relu"
    assert config.policy.options == {"rule": "adam", "step_size": 1e-3}
    assert {(p.outer.optimizer, p.outer.learning_rate) for p in config.phases} == {("adam", 1e-3)}


def test_the_loss_is_the_binary_cross_entropy_of_what_is_drawn(case: Any) -> None:
    here = case("dense-conv")
    draw = here.problem.family.draw(4, torch_generator("draw", 0))
    here.problem.network.load(here.theta)
    with torch.no_grad():
        p = here.problem.network.module(draw["noise"]).double().sigmoid()
    x = (here.images.double() + 1) / 2
    entropy = -(x * p.log() + (1 - x) * (1 - p).log()).mean((1, 2, 3))
    assert torch.allclose(here.losses().double(), entropy, rtol=1e-5)


def test_what_the_network_has_no_use_for_is_refused() -> None:
    assert set(OTHER) == set(FIXED)
    for name, value in OTHER.items():
        with pytest.raises(UserError) as caught:
            _config(f"generator.architecture.{name}={str(value).lower()}")
        reason = FIXED[name][1]
        assert f"generator.architecture.{name}: {value} does not fit family dense-conv, {reason}" in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    """As for somebody who changes the family alone."""
    with pytest.raises(UserError, match=r"patch: 2 .*; connectivity: residual .*; skips: True .*set it to false"):
        RunConfig.parse({"generator": {"family": "dense-conv"}})


def test_the_least_loss_is_at_the_mean_image(case: Any) -> None:
    """With its output layer's weights at zero the network draws its bias: no bias does better than the mean's."""
    here = case("dense-conv")
    layout = here.problem.network.layout
    mean = ((here.images + 1) / 2).mean(0).flatten()

    def loss(shift: float) -> float:
        theta = torch.zeros(layout.size)
        layout.unflatten(theta)["out.bias"].copy_(mean.logit() + shift)
        return float(here.problem.loss(theta, here.condition, here.images, torch_generator("draw")).mean())

    assert loss(0.0) < min(loss(0.05), loss(-0.05))
