from __future__ import annotations

from typing import Any

import pytest
import torch

from launch.preset import load_config, presets
from metagen.describe import Description, describe
from metagen.generators import REGISTRY
from metagen.work import build_policy, build_problem


def _by_name(found: Description) -> dict[str, tuple[int, int]]:
    return {layer.name: (layer.flops_image, layer.flops_set) for layer in found.layers}


@pytest.mark.parametrize("preset", sorted(presets()))
def test_every_preset_can_be_described_and_the_rows_add_up_to_the_layout(preset: str) -> None:
    config = load_config(preset, [], None, None)
    found = describe(config)
    layout = build_problem(config.model_copy(update={"precision": "fp32"})).network.layout
    assert found.parameters == layout.size == sum(layer.parameters for layer in found.layers)
    assert {layer.name for layer in found.layers} >= set(layout.layers)
    assert found.policy_parameters == len(build_policy(config).initial(layout))
    assert min(found.flops_image, found.flops_sample, found.memory_activations) > 0
    assert all(layer.flops_image >= 0 and layer.flops_set >= 0 for layer in found.layers)
    assert (found.flops_set > 0) == (config.generator.architecture.set_conditioning != "none")


@pytest.mark.parametrize("family", sorted(REGISTRY))
def test_every_family_has_a_preset_that_was_described(family: str) -> None:
    assert family in {load_config(name, [], None, None).generator.family for name in presets()}


def test_flops_of_a_small_network_are_those_counted_by_hand(tiny_config: Any) -> None:
    """Two FLOPs a multiply-add: kernel area x channels in x channels out x places, and rows x columns."""
    found = describe(
        tiny_config(
            "generator.architecture={patch: 2, widths: [16, 24], kernel: 5, set_conditioning: none, embedding: 16}",
            "episode.shots=3",
        )
    )
    fine, coarse = 8 * 8, 4 * 4
    time = {"time1": 2 * 64 * 16, "time2": 2 * 16 * 16}
    down = {
        "stem": 2 * 9 * 4 * 16 * fine,
        "down_stages.0.blocks.0.conv1": 2 * 25 * 16 * 16 * fine,
        "down_stages.0.blocks.0.film": 2 * 16 * 32,
        "down_stages.0.blocks.0.conv2": 2 * 25 * 16 * 16 * fine,
        "downs.0.conv": 2 * 9 * 16 * 24 * coarse,
        "down_stages.1.blocks.0.conv1": 2 * 25 * 24 * 24 * coarse,
        "down_stages.1.blocks.0.film": 2 * 16 * 48,
        "down_stages.1.blocks.0.conv2": 2 * 25 * 24 * 24 * coarse,
    }
    up = {
        "ups.0.conv": 2 * 24 * 64 * coarse,
        "up_stages.0.blocks.0.conv1": 2 * 25 * 32 * 16 * fine,
        "up_stages.0.blocks.0.film": 2 * 16 * 32,
        "up_stages.0.blocks.0.conv2": 2 * 25 * 16 * 16 * fine,
        "up_stages.0.blocks.0.mix": 2 * 32 * 16 * fine,
        "out": 2 * 9 * 16 * 4 * fine,
    }
    expected = {**time, **down, **up}
    assert {name: image for name, (image, _) in _by_name(found).items() if image} == expected
    assert found.flops_image == sum(expected.values())
    assert found.flops_set == 0


def test_the_set_is_counted_once_a_task_and_grows_with_the_shots(tiny_config: Any) -> None:
    three, six = (describe(tiny_config(f"episode.shots={shots}")) for shots in (3, 6))
    assert three.flops_image == six.flops_image
    stem = 2 * 9 * 16 * 16 * 4 * 4  # widths [16], patch 4, images of 16x16
    assert _by_name(three)["set.stem"] == (0, 3 * stem)
    assert _by_name(six)["set.stem"] == (0, 6 * stem)


def test_attention_is_counted_with_the_layer_that_does_it(tiny_config: Any) -> None:
    found = describe(tiny_config("generator.architecture.attention=true"))
    places, width = 4 * 4, 16
    assert _by_name(found)["down_stages.0.attention"] == (2 * 2 * places * places * width, 0)


def test_a_sampler_of_twice_the_steps_takes_twice_the_flops(tiny_config: Any) -> None:
    options = "sampler: euler, guidance: 1"
    one, two = (
        describe(tiny_config(f"generator.options={{{options}, sample_steps: {steps}}}")).flops_sample
        for steps in (10, 20)
    )
    step = (two - one) // 10
    assert one - 10 * step == 2 * (two - 20 * step) - (one - 10 * step)  # what is left is the set, encoded alike
    assert step == describe(tiny_config()).flops_image + _hints(tiny_config)


def _hints(tiny_config: Any) -> int:
    """The set's maps are brought to the layers' widths anew in every step."""
    return _by_name(describe(tiny_config()))["hints_down.0"][1]


def test_activations_grow_with_the_draws_and_halve_in_bf16(tiny_config: Any) -> None:
    one, four = (describe(tiny_config(f"episode.draws={draws}")) for draws in (1, 4))
    assert 1 < four.memory_activations / one.memory_activations <= 4
    half = describe(tiny_config("episode.draws=4", "precision=bf16"))
    assert half.memory_activations == pytest.approx(0.5 * four.memory_activations, rel=0.2)
    assert half.memory_parameters == half.parameters * (2 * 2 + 16)


def test_both_players_of_a_gan_are_counted_forwards_alone(tiny_config: Any) -> None:
    """The loss takes gradients of its own, which are no forward FLOPs: a critic's layer runs twice, no more."""
    found = _by_name(describe(tiny_config("generator.family=gan")))
    stem = 2 * 9 * 16 * 16 * 4 * 4
    assert found["critic.encoder.stem"] == (2 * stem, 0)
    assert found["critic.set.stem"] == (0, 3 * stem)
    assert found["generator.decoder.out"] == (2 * stem, 0)  # two images are drawn


def test_describing_leaves_the_global_generator_alone(tiny_config: Any) -> None:
    before = torch.get_rng_state()
    assert describe(tiny_config()) == describe(tiny_config())
    assert torch.equal(torch.get_rng_state(), before)
