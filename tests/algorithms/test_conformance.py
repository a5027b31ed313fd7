"""What every estimator and every policy must be, in every pair that works; a new entry is tested as it stands."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metagen import algorithms, policies, work
from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.compatibility import refusal
from metagen.generators.flow import Flow
from metagen.pool import SerialPool
from metagen.records import Snapshot
from metagen.train import train

SMALL = {"inner_steps": 2, "query_at": {0: 1.0, 2: 1.0}}
"""Options that most estimators have, small."""


def _proximal(policy: str) -> float:
    """A pull towards theta, which some estimators need, wherever it means something."""
    return 0.0 if hasattr(policies.REGISTRY[policy], "solve") else 1.0


def _estimators(policy: str) -> list[str]:
    """The estimators that work with a policy."""
    found = [
        name
        for name, estimator in algorithms.REGISTRY.items()
        if refusal(estimator, Flow, policies.REGISTRY[policy], proximal=_proximal(policy)) is None
    ]
    assert found, f"policy {policy} works with no estimator"
    return found


POLICIES = sorted(policies.REGISTRY)
PAIRS = [(policy, estimator) for policy in POLICIES for estimator in _estimators(policy)]


def _phase(estimator: str) -> dict[str, Any]:
    fields = algorithms.REGISTRY[estimator].Options.model_fields
    options = {name: value for name, value in SMALL.items() if name in fields}
    return {"estimator": estimator, "options": options, "steps": 1, "items": 2, "tasks": 1, "outer": {"warmup": 0}}


@pytest.fixture(scope="module")
def config_of(tiny_config: Any) -> Any:
    """The tiny run with a policy, and a phase of one step for each of some estimators."""

    def make(policy: str, estimators: list[str], *assignments: str) -> Any:
        values = tiny_config(*assignments).model_dump(mode="json")
        fields = policies.REGISTRY[policy].Options.model_fields
        options = {name: value for name, value in {"horizon": 2, "counts": [2, 1]}.items() if name in fields}
        values["policy"] = {"name": policy, "proximal": _proximal(policy), "options": options}
        return tiny_config().parse({**values, "phases": [_phase(name) for name in estimators]})

    return make


@pytest.fixture(scope="module")
def rgb_images(tiny_images: Any) -> Any:
    """The tiny image set in colour: each channel another image of the class."""
    return dataclasses.replace(
        tiny_images, images=np.concatenate([np.roll(tiny_images.images, shift, axis=0) for shift in range(3)], axis=1)
    )


@pytest.fixture(scope="module")
def serial(config_of: Any, run_to_end: Any) -> Any:
    """A policy's run with every estimator that it works with, in one process; made once."""
    return functools.cache(lambda policy: run_to_end(config_of(policy, _estimators(policy)))[0])


def test_every_estimator_works_with_a_policy() -> None:
    assert {estimator for _, estimator in PAIRS} == set(algorithms.REGISTRY)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("policy", "estimator"), PAIRS)
def test_a_result_has_the_runs_shapes_and_its_seed_decides_it(
    policy: str, estimator: str, channels: int, config_of: Any, tiny_images: Any, rgb_images: Any
) -> None:
    config = config_of(policy, [estimator], f"data.channels={channels}")
    parts = work.build(config, tiny_images if channels == 1 else rgb_images)
    layout, state = parts.problem.network.layout, torch.get_rng_state()
    vector = parts.policy.initial(layout)
    snapshot = Snapshot(0, parts.problem.network.initial.numpy().copy(), vector.numpy().copy())
    item, other = work.plan(config, 0, 0)
    first, again, next_item = (work.run(parts, each, snapshot) for each in (item, item, other))
    for result in (first, next_item):
        if result.probes:
            assert result.gradient.size == result.policy_update.size == 0
        else:
            assert result.gradient.shape == (layout.size,)
            assert result.policy_update.shape == (len(vector),)
        assert np.isfinite(result.gradient).all()
        assert np.isfinite(result.policy_update).all()
        assert all(np.isfinite(value) for value in result.metrics.values())
        assert result.gradient.any() or result.probes
    assert np.array_equal(first.gradient, again.gradient)
    assert np.array_equal(first.policy_update, again.policy_update)
    assert (first.metrics, first.probes, first.experiences) == (again.metrics, again.probes, again.experiences)
    assert first.metrics != next_item.metrics
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_that_is_saved_anywhere_goes_on_as_if_it_had_not_been(
    policy: str, config_of: Any, new_learner: Any, serial: Any, assert_same_state: Any, tmp_path: Path
) -> None:
    """With every estimator of the policy in turn, a step each, and a new process after each."""
    config = config_of(policy, _estimators(policy))
    learner, parts = new_learner(config)
    for step in range(config.steps):
        next(train(learner, SerialPool(parts)))
        save_checkpoint(tmp_path / str(step), config, learner.layout, learner.state)
        learner, parts = new_learner(config)
        learner.state = load_checkpoint(tmp_path / str(step)).state
    assert_same_state(learner.state, serial(policy))


@pytest.mark.ray
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_on_ray_equals_the_serial_run_bit_for_bit(
    policy: str, config_of: Any, run_to_end: Any, serial: Any, on_ray: Any, assert_same_state: Any
) -> None:
    """With every estimator of the policy in turn."""
    config = config_of(policy, _estimators(policy))
    parallel, _ = run_to_end(config, on_ray(2))
    assert_same_state(parallel, serial(policy))
    assert parallel.counts["accepted"] == 2 * config.steps
