from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.evaluate import Bench, Method
from metagen.picks import Pick, picks, shares, typical
from metagen.policies import REGISTRY, Policy
from metagen.tasks.categories import Sorter, find_categories


@pytest.fixture
def bench(tiny_images: Any) -> Bench:
    small = dataclasses.replace(tiny_images, images=tiny_images.images[:, :, :4, :4].copy())
    return Bench(small, (8, 9, 11), shots=3, seed=0)


def _method(toy_problem: Any, policy: Policy, vector: Tensor | None = None, **problem: Any) -> Method:
    made = dataclasses.replace(toy_problem(), **problem)
    layout = made.network.layout
    return Method(made, made.network.initial, policy, policy.initial(layout) if vector is None else vector)


def _policy(name: str, **options: Any) -> Policy:
    made: Policy = REGISTRY[name](REGISTRY[name].Options(**options))
    return made


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("fixed", {"rule": "sign", "step_size": 1e-3}, "sign"),
        ("learned-steps", {"rule": "momentum", "step_size": 1e-3, "start_weight": 0.0}, "momentum"),
        ("alfa", {"rule": "muon", "step_size": 1e-3, "start_weight": 0.0}, "muon"),
        ("stochastic", {"rule": "sgd", "step_sizes": {"sgd": 1e-3, "adam": 1.0}, "counts": [4, 2]}, "sgd"),
    ],
)
def test_a_pick_is_the_rule_and_the_sizes_that_steps_were_taken_with(
    name: str, options: dict[str, Any], rule: str, toy_problem: Any, bench: Bench
) -> None:
    found = list(picks(_method(toy_problem, _policy(name, **options)), bench, steps=4))
    assert [pick.class_name for pick in found] == [bench.images.classes[i] for i in bench.classes]
    for pick in found:
        assert (pick.rule, pick.category) == (rule, None)
        assert pick.log10_sizes.shape == (4, 2)
        assert torch.allclose(pick.log10_sizes, torch.full((4, 2), -3.0), atol=1e-5)


@pytest.mark.parametrize("shots", [1, 2])
def test_with_fewer_images_than_trained_at_the_sizes_are_those_that_were_taken(
    shots: int, toy_problem: Any, bench: Bench
) -> None:
    method = _method(toy_problem, _policy("learned-steps", step_size=1e-3, start_weight=0.0), shots=3)
    few = dataclasses.replace(bench, shots=shots)
    for pick in picks(method, few, steps=2):
        if shots == 1:
            assert pick.log10_sizes.shape == (0, 2)  # it adapts nothing
        else:
            assert torch.allclose(10**pick.log10_sizes, torch.full((2, 2), 0.5e-3), rtol=1e-4)


def test_a_policy_that_solves_does_so_with_any_number_of_images(toy_problem: Any, bench: Bench) -> None:
    single = dataclasses.replace(bench, shots=1)
    found = list(picks(_method(toy_problem, _policy("ridge"), shots=3), single, steps=2))
    assert all(len(pick.log10_sizes) == 2 for pick in found)
    assert all(float(pick.log10_sizes[0, -1]) > -6 for pick in found), "the last layer moves"
    assert all(bool(pick.log10_sizes[:, :-1].isneginf().all()) for pick in found), "and no other"


def test_a_policy_that_stops_early_picks_fewer_steps(toy_problem: Any, bench: Bench) -> None:
    found = list(picks(_method(toy_problem, _policy("stochastic", counts=[2])), bench, steps=6))
    assert [len(pick.log10_sizes) for pick in found] == [2, 2, 2]


def test_of_a_policy_that_does_not_say_it_is_measured_how_far_layers_moved(toy_problem: Any, bench: Bench) -> None:
    """A policy of a user's own that moves one layer by 0.1 and the other by 0.001."""

    class Silent:
        def wants_halves(self, step: int) -> bool:
            return False

        def step(self, run: Any, parameters: Tensor, gradient: Any, step: int) -> Tensor:
            return parameters + run.layers.spread(torch.tensor([0.1, 0.001]).to(parameters))

    found = list(picks(_method(toy_problem, Silent(), torch.zeros(0)), bench, steps=3))  # type: ignore[arg-type]
    assert found[0].rule == ""
    assert torch.allclose(found[0].log10_sizes, torch.tensor([[-1.0, -3.0]]).expand(3, 2), atol=1e-4)


def test_tasks_get_the_category_that_the_policy_saw(toy_problem: Any, bench: Bench) -> None:
    sorter = Sorter(find_categories(bench.images, 3, 4, 0))
    found = list(picks(_method(toy_problem, _policy("fixed"), sorter=sorter), bench, steps=1))
    assert [pick.category for pick in found] == bench.categories(sorter)


def test_shares_and_the_typical_size_are_over_the_tasks_that_took_the_step() -> None:
    sizes = [torch.full((steps, 1), value) for steps, value in ((2, -1.0), (1, -2.0), (1, -4.0))]
    found = [Pick("c", None, rule, table) for rule, table in zip(("adam", "sgd", "sgd"), sizes, strict=True)]
    assert shares(found) == {"sgd": pytest.approx(2 / 3), "adam": pytest.approx(1 / 3)}
    assert typical(found)[:, 0].tolist() == [-2.0, -1.0]
