from __future__ import annotations

from typing import Any

import pytest

from launch.benchmarks.models import MODELS, at_equal_compute, passes_of
from metagen.config import RunConfig


@pytest.fixture
def config(tiny_config: Any, tiny_npz: Any) -> RunConfig:
    made: RunConfig = tiny_config(
        "data.source=npz", f"data.path={tiny_npz}", "generator.architecture.set_conditioning=spatial"
    )
    return made


def test_passes_are_those_counted_by_hand(config: RunConfig) -> None:
    """3 steps of 3 pieces of 2 tasks of 2 queries; then 2 steps of 3 pieces of 1 task, adapted for 2 steps to 3 images
    in 1 draw, with 2 queries in 4 draws each before and after."""
    assert passes_of(config) == 3 * 3 * 2 * 2 + 2 * 3 * (2 * 3 * 1 + 2 * 2 * 4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "meta"])
def test_rivals_take_as_many_image_passes(config: RunConfig, name: str) -> None:
    for candidate in MODELS[name].candidates(config):
        equal = at_equal_compute(candidate, 5000)
        assert len(equal.phases) == 1
        once = passes_of(equal.with_steps(1))
        assert abs(once * equal.steps - 5000) <= once / 2


def test_unconditioned_models_have_no_set_encoder_and_all_have_the_presets_network_else(config: RunConfig) -> None:
    architecture = config.generator.architecture
    for name, model in MODELS.items():
        for candidate in model.candidates(config):
            conditioned = name in ("meta", "conditioned")
            wanted = architecture if conditioned else architecture.model_copy(update={"set_conditioning": "none"})
            assert candidate.generator.architecture == wanted
            assert candidate.seed == config.seed


def test_reptile_has_figrs_settings(config: RunConfig) -> None:
    [figr] = MODELS["reptile-figr"].candidates(config)
    [phase] = figr.phases
    assert (phase.estimator, phase.options) == ("reptile", {"inner_steps": 10})
    assert (figr.policy.name, figr.policy.options) == ("fixed", {"rule": "sgd", "step_size": 1e-3})
    assert (figr.episode.shots + figr.episode.queries) * figr.episode.draws == 4
    assert (phase.outer.optimizer, phase.outer.learning_rate, phase.outer.schedule) == ("adam", 1e-4, "constant")
    assert len(MODELS["reptile"].candidates(config)) > 1
