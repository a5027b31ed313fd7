from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metagen.seeding import numpy_generator, seed_for, torch_generator

names = st.lists(st.one_of(st.text(), st.integers()), min_size=1, max_size=5)


@given(names)
def test_a_seed_depends_on_its_names_alone_and_suits_every_generator(path: list[Any]) -> None:
    assert seed_for(*path) == seed_for(*path)
    assert 0 <= seed_for(*path) < 2**63


@given(names, names)
def test_other_names_give_another_seed(one: list[Any], other: list[Any]) -> None:
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


def test_types_and_order_and_where_a_name_ends_matter() -> None:
    paths: list[tuple[Any, ...]] = [(1, 2), (2, 1), ("1", 2), (12,), ("1", "2"), ("12",), ("1 2",), (1, 2, 0)]
    assert len({seed_for(*path) for path in paths}) == len(paths)


def test_seeds_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert seed_for(0, "episode", 7, 3) == 5263995208194544046
    assert torch.rand(2, generator=torch_generator(0, "noise")).tolist() == pytest.approx([0.611495, 0.704243])
    assert numpy_generator(0, "noise").random(2).tolist() == pytest.approx([0.713395, 0.0720076])


@pytest.mark.parametrize("estimator", ["joint", "fomaml", "reptile"])
def test_training_leaves_the_global_generators_alone(estimator: str, tiny_config: Any, run_to_end: Any) -> None:
    config = tiny_config(f"phases.1.estimator={estimator}", "phases.1.options={}", "phases.1.shift=1")
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    run_to_end(config)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_the_global_generators_hold_does_not_matter(
    tiny_config: Any, run_to_end: Any, assert_same_state: Any
) -> None:
    reference, _ = run_to_end(tiny_config())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again, _ = run_to_end(tiny_config())
    assert_same_state(reference, again)


def test_another_seed_is_another_run(tiny_config: Any, run_to_end: Any) -> None:
    first, other = (run_to_end(tiny_config(f"seed={seed}"))[0] for seed in (0, 1))
    assert not torch.equal(first.theta, other.theta)
