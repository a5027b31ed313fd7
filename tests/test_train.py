"""The laws of the loop: who does the work, in what order, how often it stops, changes nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metagen import work
from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.evaluate import Bench, Method
from metagen.pool import SerialPool
from metagen.records import Verdict
from metagen.train import train


class ShuffledPool(SerialPool):
    """Does all work twice, in another order at every step."""

    def submit(self, items: Any, snapshot: Any) -> None:
        twice = [*items, *items]
        super().submit([twice[i] for i in np.random.default_rng(items[0].step).permutation(len(twice))], snapshot)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_keystone_a_run_on_ray_equals_the_serial_run_bit_for_bit(
    workers: int, ahead: int, tiny_config: Any, run_to_end: Any, on_ray: Any, assert_same_state: Any
) -> None:
    """Joint, then fomaml with a learned policy: theta, policy, means, moments, counts and applied work; also where
    workers are ahead of the learner."""
    config = tiny_config(f"max_staleness={ahead}")
    serial, serial_reports = run_to_end(config)
    parallel, ray_reports = run_to_end(config, on_ray(workers))
    assert_same_state(parallel, serial)
    assert serial.counts == {"accepted": 15, "stale": 0, "nonfinite": 0, "duplicate": 0}
    assert not torch.equal(serial.theta, work.build_problem(config).network.initial)
    assert [report.metrics for report in ray_reports] == [report.metrics for report in serial_reports]


@pytest.mark.ray
def test_keystone_holds_in_bf16_and_with_work_queued_at_the_actors(
    tiny_config: Any, run_to_end: Any, on_ray: Any, assert_same_state: Any
) -> None:
    config = tiny_config("precision=bf16", "phases.1.estimator=reptile", "phases.1.options={inner_steps: 2}")
    serial, _ = run_to_end(config)
    parallel, _ = run_to_end(config, on_ray(2, in_flight=2))
    assert_same_state(parallel, serial)


EVERY_ESTIMATOR = {
    "steps": [
        "policy={name: learned-steps, options: {horizon: 2}, adapt: ['out.*', '*.film.*'], proximal: 5}",
        "phases=[{estimator: maml, options: {query_at: {0: 1, 3: 1}, checkpoints: sqrt}, steps: 2, items: 3, tasks: 1},"
        " {estimator: imaml, options: {inner_steps: 2}, steps: 1, items: 3, tasks: 1},"
        " {estimator: es, options: {query_at: {2: 1}}, steps: 2, items: 3, tasks: 2}]",
    ],
    "stochastic": [
        "max_staleness=1",
        "policy={name: stochastic, options: {counts: [3, 1]}}",
        "phases=[{estimator: ppo, options: {query_at: {0: 1, 3: 1}, rollouts: 2}, steps: 3, items: 3, tasks: 1,"
        " outer: {policy_epochs: 2}}, {estimator: fomaml, options: {query_at: {3: 1}}, steps: 1, items: 3, tasks: 1}]",
    ],
    "ridge": [
        "precision=bf16",
        "policy={name: ridge}",
        "phases=[{estimator: closed-form, steps: 2, items: 3, tasks: 1},"
        " {estimator: es, options: {query_at: {1: 1}}, steps: 1, items: 3, tasks: 1}]",
    ],
}


@pytest.mark.ray
@pytest.mark.parametrize("policy", sorted(EVERY_ESTIMATOR))
def test_keystone_holds_for_every_estimator(
    policy: str, tiny_config: Any, run_to_end: Any, on_ray: Any, assert_same_state: Any
) -> None:
    """Second order, implicit, in closed form, with directions that the learner draws again from their seeds, and with
    experiences."""
    config = tiny_config(*EVERY_ESTIMATOR[policy])
    serial, _ = run_to_end(config)
    parallel, _ = run_to_end(config, on_ray(2))
    assert_same_state(parallel, serial)
    assert serial.counts["accepted"] == 3 * config.steps


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("workers", "deaths"), [(1, 1), (2, 2)])
def test_a_lost_actor_changes_nothing_but_time(
    workers: int,
    deaths: int,
    tmp_path: Path,
    tiny_config: Any,
    run_to_end: Any,
    assert_same_state: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Actors are killed (SIGKILL) in the middle of their work, also the only one there is. We say so, Ray does not."""
    from cluster.pool import RayPool

    config = tiny_config(
        "phases.1.estimator=faults:DiesAtWork", f"phases.1.options={{marker: {tmp_path}, deaths: {deaths}}}"
    )
    markers = [tmp_path / str(death) for death in range(deaths)]
    for marker in markers:  # so that the serial run lives
        marker.touch()
    serial, _ = run_to_end(config)
    for marker in markers:
        marker.unlink()
    parallel, _ = run_to_end(config, lambda parts: RayPool(parts.config, parts.images, workers))
    assert all(marker.exists() for marker in markers)
    assert sum("is lost with its actor" in record.message for record in caplog.records) >= deaths
    assert "(raylet)" not in capfd.readouterr().out
    assert_same_state(parallel, serial)


def test_order_of_completion_and_duplicates_change_nothing_in_a_whole_run(
    tiny_config: Any, run_to_end: Any, assert_same_state: Any
) -> None:
    config = tiny_config()
    plain, _ = run_to_end(config)
    shuffled, reports = run_to_end(config, ShuffledPool)
    assert_same_state(replace(shuffled, counts=plain.counts), plain)
    assert shuffled.counts["duplicate"] > 0
    assert all(report.verdicts[Verdict.ACCEPTED] == 3 for report in reports)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize(("ema", "ahead"), [(0.0, 0), (0.5, 0), (0.5, 1), (0.5, 2)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    stop: int,
    ema: float,
    ahead: int,
    precision: str,
    tmp_path: Path,
    tiny_config: Any,
    new_learner: Any,
    run_to_end: Any,
    assert_same_state: Any,
) -> None:
    """Stopped after any step; after the third, one phase has ended and the next has not begun."""
    config = tiny_config(f"ema={ema}", f"max_staleness={ahead}", f"precision={precision}")
    whole, reports = run_to_end(config)
    first, parts = new_learner(config)
    steps = train(first, SerialPool(parts))
    for _ in range(stop):
        next(steps)
    save_checkpoint(tmp_path / "c", config, first.layout, first.state)

    saved = load_checkpoint(tmp_path / "c")
    second, parts = new_learner(saved.config)
    second.state = saved.state
    rest = list(train(second, SerialPool(parts)))
    assert_same_state(second.state, whole)
    assert [report.step for report in rest] == list(range(stop + 1, 6))
    assert [report.metrics for report in rest] == [report.metrics for report in reports[stop:]]


@pytest.mark.parametrize("ahead", range(4))
def test_each_step_is_estimated_at_the_version_that_the_config_says(
    ahead: int, tiny_config: Any, new_learner: Any
) -> None:
    """``max_staleness`` steps before its own, within its phase of three steps and of two."""
    versions: dict[int, set[int]] = {}

    class Watching(SerialPool):
        def submit(self, items: Any, snapshot: Any) -> None:
            versions[items[0].step] = {snapshot.version, *(item.version for item in items)}
            super().submit(items, snapshot)

    learner, parts = new_learner(tiny_config(f"max_staleness={ahead}"))
    list(train(learner, Watching(parts)))
    expected = {0: 0, 1: max(1 - ahead, 0), 2: max(2 - ahead, 0), 3: 3, 4: max(4 - ahead, 3)}
    assert versions == {step: {version} for step, version in expected.items()}
    assert learner.state.counts["accepted"] == 15


def test_workers_ahead_of_the_learner_have_work_while_it_applies_a_step(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config("max_staleness=1"))
    pool, apply, waiting = SerialPool(parts), learner.step, []

    def step(*arguments: Any) -> Any:
        waiting.append([item.step for item, _ in pool._waiting])
        return apply(*arguments)

    learner.step = step
    next(train(learner, pool))
    assert waiting == [[1, 1, 1]]


def test_workers_have_the_next_work_while_the_caller_looks_at_a_step(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config())
    pool = SerialPool(parts)
    report = next(train(learner, pool))
    assert {item.step for item, _ in pool._waiting} == {report.step}
    assert {snapshot.version for _, snapshot in pool._waiting} == {report.version}


def test_a_run_that_is_complete_takes_no_step(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config())
    assert len(list(train(learner, SerialPool(parts)))) == 5
    assert list(train(learner, SerialPool(parts))) == []


def test_the_state_after_a_report_is_that_of_the_report(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config())
    for number, report in enumerate(train(learner, SerialPool(parts)), start=1):
        assert (report.step, report.version) == (learner.state.step, learner.state.version) == (number, number)
        assert (report.steps, report.phase) == (5, 0 if number <= 3 else 1)
        assert report.tasks == (6 if number <= 3 else 3)
        assert report.verdicts == {Verdict.ACCEPTED: 3}
        outer = learner.config.phases[report.phase].outer
        assert 0 < report.learning_rate <= outer.learning_rate
        assert report.gradient_norm > 0


def test_the_seconds_of_a_step_are_split_into_parts_that_make_up_the_whole(tiny_config: Any, new_learner: Any) -> None:
    """Also where the caller takes its time between steps: a pool that works when it is asked spends none on the way."""
    learner, parts = new_learner(tiny_config())
    spent = {"transfer": 0.0, "adapt": 0.0}
    for report in train(learner, SerialPool(parts)):
        time.sleep(0.3)
        seconds = report.seconds
        spent = {part: spent[part] + seconds[part] for part in spent}
        assert set(seconds) == {"adapt", "transfer", "idle", "learner", "total"}
        assert all(value >= 0 for value in seconds.values())
        assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], rel=1e-6)
    assert spent["transfer"] < spent["adapt"] / 2


@pytest.mark.parametrize(
    ("estimator", "options", "learning_rate"),
    [("joint", "{}", 0.02), ("fomaml", "{query_at: {0: 1, 2: 1}}", 0.02), ("reptile", "{inner_steps: 5}", 0.5)],
)
def test_training_lowers_the_loss_on_classes_it_has_not_seen(
    estimator: str, options: str, learning_rate: float, tiny_config: Any, run_to_end: Any, new_learner: Any
) -> None:
    optimizer = "sgd" if estimator == "reptile" else "muon"
    outer = f"{{optimizer: {optimizer}, learning_rate: {learning_rate}, warmup: 0}}"
    config = tiny_config(
        f"phases=[{{estimator: {estimator}, options: {options}, steps: 20, items: 1, tasks: 4, outer: {outer}}}]",
        "policy.options.step_size=1e-3",
    )
    learner, parts = new_learner(config)
    bench = Bench(parts.images, tuple(parts.images.members("test").tolist()), shots=3, seed=0)
    state, _ = run_to_end(config)
    before, after = (
        bench.losses(Method(parts.problem, theta, parts.policy, vector), [0]).mean()
        for theta, vector in ((learner.state.theta, learner.state.policy), (state.mean, state.policy))
    )
    assert after < 0.92 * before
