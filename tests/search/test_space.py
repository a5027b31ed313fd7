from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metagen.config import RunConfig
from metagen.describe import describe
from metagen.errors import UserError
from metagen.search.limits import Refused, admitted
from metagen.search.space import Domain, Space
from metagen.seeding import numpy_generator


@pytest.fixture(scope="session")
def space(tiny_sweep: Any) -> Space:
    return tiny_sweep().make_space()


@given(seed=st.integers(0, 10_000))
def test_every_value_is_of_its_domain_and_the_conditions_hold(space: Space, seed: int) -> None:
    assignment = space.draw(numpy_generator(seed))
    assert all(space.parameters[name].holds(value) for name, value in assignment.items())
    assert ("attention_resolution" in assignment) == (16 / assignment["generator.architecture.patch"] <= 8)
    assert ("generator.architecture.blocks" in assignment) == (assignment["levels"] <= 2)
    # A condition on an inactive parameter does not hold.
    assert ("ema" in assignment) == (assignment.get("generator.architecture.blocks") == 1)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_a_network_is_as_its_assignment_says_or_is_refused_before_it_is_built(
    space: Space, tiny_sweep: Any, seed: int
) -> None:
    assignment = space.draw(numpy_generator(seed))
    finest, levels = 16 // assignment["generator.architecture.patch"], assignment["levels"]
    possible = finest % 2 ** (levels - 1) == 0
    if not possible:
        with pytest.raises(Refused, match="image_size"):
            admitted(tiny_sweep(), space, assignment)
        return
    config, facts = admitted(tiny_sweep(), space, assignment)
    architecture = config.generator.architecture
    expected = [round(assignment["width"] * assignment["growth"] ** level / 8) * 8 for level in range(levels)]
    assert list(architecture.widths) == expected
    most = assignment.get("attention_resolution", 0)
    flags = [finest / 2**level <= most for level in range(levels)]
    assert [architecture.attends(level) for level in range(levels)] == flags
    assert config.ema == assignment.get("ema", space.base.ema)
    with torch.device("meta"):
        network = config.family().build()
    assert facts.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_counted_of_shapes_is_what_is_counted_of_a_network(space: Space, tiny_sweep: Any, seed: int) -> None:
    assignment = {**space.draw(numpy_generator(seed)), "levels": 1}
    config, facts = admitted(tiny_sweep(), space, assignment)
    found = describe(config)
    assert facts.parameters == found.parameters
    assert facts.flops == config.episode.queries * found.flops_image + found.flops_set


@pytest.mark.parametrize("seed", range(5))
def test_trials_of_equal_flops_take_those_of_the_base_to_within_a_step(
    space: Space, tiny_sweep: Any, seed: int
) -> None:
    def flops(config: RunConfig) -> float:
        found = describe(config)
        tasks = sum(phase.steps * phase.items * phase.tasks for phase in config.phases)
        return tasks * (config.episode.queries * found.flops_image + found.flops_set)

    sweep = tiny_sweep(steps=60, equal="flops")
    config, facts = admitted(sweep, space, {**space.draw(numpy_generator(seed)), "levels": 1})
    assert facts.steps == config.steps != 60
    assert abs(flops(config) - flops(space.base.with_steps(60))) < flops(config) / config.steps


@pytest.mark.parametrize(("steps", "every"), [(6, 2), (7, 2), (120, 30), (121, 30), (5, 5), (5, 1)])
def test_trials_of_any_length_are_judged_at_the_same_shares(tiny_sweep: Any, steps: int, every: int) -> None:
    sweep = tiny_sweep(steps=steps, every=every)
    own = sweep.judged_at(steps)
    assert own == (*range(every, steps, every), steps)
    for other in (1, steps // 2 + 1, 10 * steps + 3):
        judged = sweep.judged_at(other)
        assert len(judged) == sweep.rungs
        assert judged[-1] == other
        assert all(2 * abs(a * steps - b * other) <= steps or a == 1 for a, b in zip(judged, own, strict=True))


@pytest.mark.parametrize(
    ("limits", "named"),
    [({"parameters": 10}, "limits.parameters"), ({"flops": 10}, "limits.flops"), ({"memory": 10}, "limits.memory")],
)
def test_what_breaks_a_limit_is_refused_by_its_name(
    tiny_sweep: Any, space: Space, limits: dict[str, float], named: str
) -> None:
    assignment = {"generator.architecture.patch": 4, "levels": 1, "width": 16, "growth": 1.0}
    with pytest.raises(Refused, match=named):
        admitted(tiny_sweep(limits=limits), space, assignment)


def test_a_grid_is_every_assignment_once(tiny_sweep: Any) -> None:
    names = ("generator.architecture.patch", "levels", "generator.architecture.blocks")
    full = tiny_sweep().space
    space = tiny_sweep(space={n: full[n].model_dump(exclude_none=True) for n in names}).make_space()
    texts = [json.dumps(assignment) for assignment in space.grid()]
    drawn = {json.dumps(space.draw(numpy_generator("grid", seed))) for seed in range(300)}
    assert len(texts) == len(set(texts)) == 3 * (2 * 2 + 1)
    assert drawn == set(texts)


LEVELS = {"levels": {"range": [1, 3]}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"generator.architecture.block": {"choice": [1]}}, "space.generator.architecture.block: no key.*blocks"),
        ({"phases.7.steps": {"choice": [1]}}, "space.phases.7.steps: no key"),
        ({"levels": {}}, "exactly one of"),
        ({"levels": {"choice": [1], "range": [1, 2]}}, "exactly one of"),
        ({"levels": {"range": [2, 1]}}, "2 is not below 1"),
        ({"ema": {"loguniform": [0, 1]}}, "not above 0"),
        ({"levels": {"choice": [1, 1]}}, "each once"),
        ({"ema": {"uniform": [0, 0.5], "when": {"levels": 1}}, "levels": {"choice": [1]}}, "neither a parameter above"),
        ({"ema": {"uniform": [0, 0.5], "wenn": {"levels": 1}}}, "did you mean 'when'"),
        ({"data.image_size": {"choice": [16, 32]}}, "the same for all trials"),
        (
            {"levels": {"choice": [1], "when": {"resolution": 4}}, "generator.architecture.patch": {"choice": [2, 4]}},
            "put that above",
        ),
        ({}, "at least one parameter"),
        ({"levels": {"range": [2, 2]}}, r"2 is not below 2: for a single value give choice: \[2\]"),
        ({"ema": {"uniform": [0, float("inf")]}}, "finite"),
        ({"ema": {"uniform": [0, 0.5], "step": 2}}, "step: goes with range, not with uniform"),
        ({"levels": {"choice": ["two"]}}, "space.levels: whole numbers from 1 are needed"),
        ({"levels": {"uniform": [1, 3]}}, "space.levels: whole numbers from 1 are needed"),
        ({"growth": {"choice": [0, 2]}}, "space.growth: numbers above 0 are needed"),
        ({"attention_resolution": {"choice": ["all"]}}, "space.attention_resolution: numbers from 0 are needed"),
        ({"generator.architecture.patch": {"choice": [0, 1]}}, "patch: whole numbers from 1 are needed"),
        (LEVELS | {"ema": {"choice": [0], "when": {"levels": {"most": 2}}}}, "ema: when: of 'levels': give a value"),
        (LEVELS | {"ema": {"choice": [0], "when": {"levels": {"max": "a"}}}}, "ema: when: of 'levels': give a value"),
        (LEVELS | {"ema": {"choice": [0], "when": {"levels": [7, 8]}}}, r"ema.when: 'levels' is never \[7, 8\]"),
        (LEVELS | {"ema": {"choice": [0], "when": {"levels": {"min": 7}}}}, "ema.when: 'levels' is never"),
        ({"ema": {"choice": [0], "when": {"budget": {"min": 7}}}}, "min and max are for numbers, 'budget' has None"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_line(tiny_sweep: Any, space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_sweep(space=space)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"name": "nsga2"}, "schedule": {"name": "none"}}, "several objectives"),
        ({"objectives": ["loss", "flops"]}, "schedule.name none"),
        (
            {"objectives": ["loss", "flops"], "schedule": {"name": "none"}, "search": {"name": "evolution"}},
            "evolution takes one objective: use nsga2 or tpe",
        ),
        ({"search": {"name": "bohb"}}, "schedule.name to hyperband"),
        ({"schedule": {"name": "pbt"}}, "outer hyperparameters"),
        (
            {"schedule": {"name": "pb2"}, "space": {"phases.0.outer.warmup": {"range": [0, 2]}}},
            "pb2 models continuous values",
        ),
        (
            {"schedule": {"name": "pbt"}, "space": {"ema": {"uniform": [0, 0.5]}}, "equal": "flops"},
            "equal: the runs of pbt .* use steps",
        ),
        ({"every": 7}, "more than the trial's 6 steps"),
        ({"objectives": []}, "at least one"),
        ({"objectives": 5}, r"objectives: a list, such as \[5\], is needed"),
        ({"search": None}, "search: a mapping, such as {name: evolution}, is needed"),
        ({"search": {"name": "tpee"}}, "tpe"),
        ({"first": [{}]}, "first.0.generator.architecture.patch: has no value"),
        ({"first": [{"level": 1}]}, "first.0.level: not in the space; did you mean 'levels'"),
        ({"first": [{"generator.architecture.patch": 3}]}, "first.0.*: 3 is not in the space: 1, 2, 4"),
        ({"first": [{"ema": 0.1}], "space": {"ema": {"uniform": [0.2, 0.5]}}}, "0.1 is not in the space: 0.2 to 0.5"),
        (
            {
                "first": [{"levels": 2, "ema": 0.1}],
                "space": {"levels": {"range": [1, 2]}, "ema": {"uniform": [0, 0.5], "when": {"levels": 1}}},
            },
            "first.0.ema: not there under the space's conditions",
        ),
        (
            {"first": [{"levels": 2}], "space": {"levels": {"range": [1, 2]}}, "search": {"name": "grid"}},
            "a grid tries all",
        ),
        ({"base": {"seeed": 1}}, "did you mean 'seed'"),
        ({"judge": {"step": 2}}, "judge.step: unknown key; did you mean 'steps'"),
    ],
)
def test_what_does_not_go_together_is_one_line(tiny_sweep: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_sweep(**changes)


def test_labels_stand_for_choices_that_are_lists() -> None:
    domain = Domain(choice=([8, 16], [16], "none", True, 1))
    assert all(isinstance(label, str | int | bool) for label in domain.labels)
    for value in domain.choice or ():
        back = domain.labelled(domain.label(value))
        assert json.dumps(back) == json.dumps(value)


def test_an_assignment_changes_what_it_names_and_nothing_else(space: Space) -> None:
    rate = {"phases.0.outer.learning_rate": 0.05}
    config = space.config(rate)
    back = config.model_copy(update={"phases": space.base.with_steps(6).phases})
    assert config.phases[0].outer.learning_rate == 0.05
    assert back == RunConfig.parse(space.base.with_steps(6).model_dump(mode="json"))


def test_several_objectives_are_searched_by_tpe_where_no_searcher_is_named(tiny_sweep: Any) -> None:
    assert tiny_sweep().search.name == "evolution"
    several = {"objectives": ["loss", "flops"], "schedule": {"name": "none"}}
    sweep = tiny_sweep(**several, search={"options": {"startup": 3}})
    assert (sweep.search.name, sweep.search.options) == ("tpe", {"startup": 3})
