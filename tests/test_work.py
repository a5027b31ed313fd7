from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metagen import tasks, work
from metagen.algorithms import Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.learner import Learner
from metagen.policies import Gradient, Policy, Run
from metagen.pool import SerialPool
from metagen.problem import Problem
from metagen.records import Snapshot, packed, unpacked
from metagen.seeding import torch_generator
from metagen.tasks.config import DataConfig
from metagen.tasks.episodes import Episode, to_uint8
from metagen.tasks.imageset import SPLITS
from metagen.tasks.shift import _outlines, _skeletons, shifted


class Recorder:
    """An estimator that keeps the episodes it is given and learns nothing."""

    def __init__(self) -> None:
        self.episodes: list[Episode] = []

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        self.episodes += episodes
        return Estimate(torch.zeros_like(theta), torch.zeros_like(policy_vector), {"loss": 0.0})


def _recording(parts: work.Parts) -> tuple[work.Parts, Recorder]:
    recorder = Recorder()
    return dataclasses.replace(parts, estimators=(recorder,) * len(parts.config.phases)), recorder


@pytest.fixture
def learner_and_parts(new_learner: Any, tiny_config: Any) -> tuple[Learner, work.Parts]:
    return new_learner(tiny_config())


def test_a_plan_is_names_and_seeds(tiny_config: Any) -> None:
    config: RunConfig = tiny_config()
    items = [item for step in range(config.steps) for item in work.plan(config, step, version=step)]
    assert [(i.phase, i.step, i.index, i.version, i.tasks) for i in items[:4]] == [
        (0, 0, 0, 0, 2),
        (0, 0, 1, 0, 2),
        (0, 0, 2, 0, 2),
        (0, 1, 0, 1, 2),
    ]
    assert {item.phase for item in items} == {0, 1}
    assert len(items) == 3 * 3 + 2 * 3
    assert all(len(pickle.dumps(item)) < 500 for item in items)


def test_a_work_id_names_run_step_and_index_and_nothing_else(tiny_config: Any) -> None:
    config: RunConfig = tiny_config()
    items = [item for step in range(config.steps) for item in work.plan(config, step, 0)]
    assert len({item.work_id for item in items}) == len(items)
    for item in items:
        assert dataclasses.replace(item, version=9).work_id == item.work_id
    others = [item for step in range(config.steps) for item in work.plan(tiny_config("seed=4"), step, 0)]
    assert not {item.work_id for item in items} & {item.work_id for item in others}


def test_a_result_depends_on_its_item_and_snapshot_alone(
    learner_and_parts: tuple[Learner, work.Parts], new_learner: Any, tiny_config: Any
) -> None:
    """Not on the work done before it, on who does it, nor on how often it is done."""
    learner, parts = learner_and_parts
    snapshot = learner.snapshot()
    items = [item for step in range(5) for item in work.plan(learner.config, step, 0)]
    forward = {item.work_id: work.run(parts, item, snapshot, "a") for item in items}
    _, fresh = new_learner(tiny_config())
    for item in reversed(items):
        result, before = work.run(fresh, item, snapshot, "b"), forward[item.work_id]
        assert np.array_equal(result.gradient, before.gradient)
        assert np.array_equal(result.policy_update, before.policy_update)
        assert result.metrics == before.metrics
        assert (result.work_id, result.step, result.index) == (item.work_id, item.step, item.index)
        assert (result.version, result.tasks, result.worker) == (0, item.tasks, "b")
        assert result.seconds > 0


def test_the_snapshot_may_be_read_only_and_is_not_changed(learner_and_parts: tuple[Learner, work.Parts]) -> None:
    learner, parts = learner_and_parts
    snapshot = learner.snapshot()
    vector = snapshot.theta.copy()
    vector.flags.writeable = False
    frozen = Snapshot(snapshot.version, vector, snapshot.policy)
    for step in (0, 4):
        [item, *_] = work.plan(learner.config, step, 0)
        result = work.run(parts, item, frozen)
        assert np.array_equal(vector, snapshot.theta)
        assert np.array_equal(result.gradient, work.run(parts, item, snapshot).gradient)
        assert result.gradient.dtype == result.policy_update.dtype == np.float32


def test_other_parameters_give_another_result(learner_and_parts: tuple[Learner, work.Parts]) -> None:
    learner, parts = learner_and_parts
    snapshot = learner.snapshot()
    [item, *_] = work.plan(learner.config, 4, 0)
    reference = work.run(parts, item, snapshot).gradient
    for name in ("theta", "policy"):
        vector = getattr(snapshot, name).copy()
        vector += 0.5
        assert not np.array_equal(work.run(parts, item, replace(snapshot, **{name: vector})).gradient, reference)


def test_vectors_travel_in_the_dtype_that_networks_compute_in() -> None:
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpacked(packed(vector, torch.float32)), vector)
    half = packed(vector, torch.bfloat16)
    assert half.nbytes == 100
    assert torch.equal(unpacked(half), vector.bfloat16().float())
    assert torch.equal(unpacked(packed(unpacked(half), torch.bfloat16)), unpacked(half))


def test_items_of_a_step_see_other_tasks(learner_and_parts: tuple[Learner, work.Parts]) -> None:
    learner, parts = learner_and_parts
    parts, recorder = _recording(parts)
    for step in range(2):
        for item in work.plan(learner.config, step, 0):
            work.run(parts, item, learner.snapshot())
    seen = {episode.support.numpy().tobytes() for episode in recorder.episodes}
    assert len(seen) == len(recorder.episodes) == 2 * 3 * 2


def test_the_serial_pool_works_on_the_snapshot_of_the_item(
    learner_and_parts: tuple[Learner, work.Parts],
) -> None:
    learner, parts = learner_and_parts
    pool = SerialPool(parts)
    items = work.plan(learner.config, 0, 0)
    with pytest.raises(LookupError, match="no work is under way"):
        pool.take()
    pool.submit(items, learner.snapshot())
    results = [pool.take() for _ in items]
    learner.step(results)
    pool.submit(items[:1], learner.snapshot())
    later = pool.take()
    assert [result.version for result in (*results, later)] == [0, 0, 0, 1]
    assert not np.array_equal(later.gradient, results[0].gradient)


@pytest.fixture(scope="module")
def packaged() -> tasks.ImageSet:
    return tasks.load(DataConfig())


def test_unseen_classes_never_leak_into_training(packaged: tasks.ImageSet, tiny_config: Any) -> None:
    """Over the packaged split: neither a class nor a single image of valid or test is ever trained on."""
    config = tiny_config(
        "data.image_size=28",
        "phases.0={items: 40, tasks: 16, steps: 4}",
        "phases.1={shift: 0.0, items: 40, tasks: 16, steps: 4}",
    )
    parts, recorder = _recording(work.build(config, packaged))
    layout = parts.problem.network.layout
    policy = parts.policy.initial(layout).numpy()
    snapshot = Snapshot(0, np.zeros(layout.size, np.float32), policy)
    for step in range(config.steps):
        for item in work.plan(config, step, 0):
            work.run(parts, item, snapshot)
    drawn = {episode.index for episode in recorder.episodes}
    assert len(recorder.episodes) == 2 * 4 * 40 * 16
    assert {int(code) for code in packaged.split[list(drawn)]} == {SPLITS["train"]}
    assert drawn == set(packaged.members("train", config.episode.shots + config.episode.queries).tolist())
    unseen = {
        image.tobytes()
        for split in ("valid", "test")
        for index in packaged.members(split)
        for image in packaged.class_images(int(index))
    }
    trained = {
        image.tobytes()
        for episode in recorder.episodes
        for image in to_uint8(torch.cat([episode.support, episode.query]))
    }
    assert len(trained) > 1000
    assert not trained & unseen


def test_a_split_without_large_enough_classes_is_a_user_error(tiny_config: Any, new_learner: Any) -> None:
    config = tiny_config("episode.queries=50")
    learner, parts = new_learner(config)
    with pytest.raises(UserError, match=r"no class in split 'train' has 53 images .*lower shots or queries"):
        work.run(parts, work.plan(config, 0, 0)[0], learner.snapshot())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_episodes_is_shifted(share: float, tiny_config: Any, new_learner: Any) -> None:
    """The same seeds without a shift tell which episodes were altered."""
    plain, altered = [], []
    for shift, into in ((0.0, plain), (share, altered)):
        config = tiny_config(f"phases.0.shift={shift}", "phases.0.items=50", "phases.0.tasks=4")
        learner, parts = new_learner(config)
        parts, recorder = _recording(parts)
        for item in work.plan(config, 0, 0):
            work.run(parts, item, learner.snapshot())
        into += recorder.episodes
    assert [a.index for a in altered] == [p.index for p in plain]
    changed = [not torch.equal(a.support, p.support) for a, p in zip(altered, plain, strict=True)]
    assert sum(changed) / len(changed) == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_a_shift_alters_all_images_of_a_task_alike(seed: int, packaged: tasks.ImageSet) -> None:
    from metagen.tasks.episodes import sample_episode

    episode = sample_episode(packaged, 0, 4, 4, torch_generator(seed))
    twins = dataclasses.replace(episode, query=episode.support.flip(0))
    moved, again = (shifted(twins, torch_generator(seed, "shift")) for _ in range(2))
    assert torch.equal(moved.support, again.support)
    assert torch.allclose(moved.query, moved.support.flip(0), atol=1e-6)
    assert torch.equal(twins.support, episode.support)
    assert moved.support.shape == episode.support.shape
    assert torch.isfinite(moved.support).all()
    assert -1.001 <= float(moved.support.min()) <= float(moved.support.max()) <= 1.001
    assert (moved.index, moved.class_name) == (episode.index, episode.class_name)


def test_outlines_and_skeletons_are_what_morphology_says() -> None:
    """A bar five pixels across: its rim is one pixel wide, and its skeleton lies in the middle."""
    bar = torch.full((1, 1, 16, 16), -1.0)
    bar[..., 3:13, 5:10] = 1.0
    rim = bar.clone()
    rim[..., 4:12, 6:9] = -1.0
    assert torch.equal(_outlines(bar), rim)
    skeleton = _skeletons(bar) > 0
    assert skeleton[0, 0, 5:11, 7].all()
    assert not skeleton[0, 0, 6:10, [5, 6, 8, 9]].any()
    assert not (skeleton & (bar < 0)).any()
    assert torch.equal(_skeletons(rim), rim)


class Stray(Recorder):
    """An estimator whose estimate is not what the learner needs."""

    def __init__(self, gradient: int | None, update: int | None, metrics: dict[str, float]) -> None:
        super().__init__()
        self.gradient, self.update, self.metrics = gradient, update, metrics

    def estimate(self, *given: Any, **named: Any) -> Estimate:
        right = super().estimate(*given, **named)
        gradient = right.gradient if self.gradient is None else torch.zeros(self.gradient)
        update = right.policy_gradient if self.update is None else torch.zeros(self.update)
        return Estimate(gradient, update, self.metrics)


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        (Stray(1, None, {"loss": 0.0}), r"a meta-gradient \[1\] where \["),
        (Stray(None, 1, {"loss": 0.0}), r"a policy update \[1\] where \["),
        (Stray(None, None, {"error": 0.0}), "metrics must hold 'loss'; these hold error"),
    ],
)
def test_an_estimate_that_would_be_applied_wrongly_is_refused_where_it_is_made(
    stray: Stray, message: str, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    learner, parts = learner_and_parts
    parts = dataclasses.replace(parts, estimators=(stray,) * len(parts.config.phases))
    [item, *_] = work.plan(parts.config, 0, 0)
    with pytest.raises(ValueError, match=message):
        work.run(parts, item, learner.snapshot())


class OneNumber:
    """A policy that gives a single number where a vector is needed."""

    def __init__(self, of_step: bool) -> None:
        self.of_step = of_step

    def wants_halves(self, step: int) -> bool:
        return False

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        return torch.zeros(1) if self.of_step else parameters

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        return torch.ones(1)


@pytest.mark.parametrize(("of_step", "what"), [(True, "parameters"), (False, "a hypergradient")])
def test_a_single_number_is_not_spread_over_all_that_a_policy_should_give(
    of_step: bool, what: str, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    learner, parts = learner_and_parts
    fomaml = Fomaml(FomamlOptions())
    parts = dataclasses.replace(parts, policy=OneNumber(of_step), estimators=(fomaml,) * len(parts.config.phases))
    [item, *_] = work.plan(parts.config, 0, 0)
    with pytest.raises(ValueError, match=rf"policy OneNumber gave {what} \[1\] where \[\d+\] is needed"):
        work.run(parts, item, learner.snapshot())


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout(0.1), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_a_network_that_draws_or_remembers_by_itself_is_refused(layer: nn.Module, toy_problem: Any) -> None:
    family = toy_problem().family
    family.build = lambda: nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises(UserError, match=f"{type(layer).__name__} '1', and what such layers draw or remember"):
        work.initialised(family, 0)


def test_layers_that_do_neither_are_taken(toy_problem: Any) -> None:
    family = toy_problem().family
    family.build = lambda: nn.Sequential(nn.Dropout(0.0), nn.GroupNorm(1, 4), nn.InstanceNorm2d(4), nn.LayerNorm(4))
    work.initialised(family, 0)


def test_a_config_that_was_not_measured_says_what_to_call(tiny_config: Any, tiny_images: tasks.ImageSet) -> None:
    with pytest.raises(ValueError, match=r"call metagen\.precision\.resolve"):
        work.build(tiny_config("precision=auto"), tiny_images)
