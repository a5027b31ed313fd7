from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metagen import work
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.guard import Watch
from metagen.learner import Learner
from metagen.records import Verdict, WorkItem, WorkResult

ITEMS = 5


@pytest.fixture
def config(tiny_config: Any) -> RunConfig:
    return tiny_config("phases.0.items=5", "phases.0.steps=4", "phases.0.outer.optimizer=adam")


@pytest.fixture
def make(new_learner: Any, config: RunConfig) -> Any:
    """A learner at its first step."""
    return lambda: new_learner(config)[0]


def _result(learner: Learner, item: WorkItem, seed: int = 0, **changes: Any) -> WorkResult:
    rng = np.random.default_rng([seed, item.step, item.index])
    gradient = rng.standard_normal(learner.layout.size).astype(np.float32)
    policy = rng.standard_normal(len(learner.state.policy)).astype(np.float32)
    metrics = {"loss": float(rng.random()), "query_loss/0": float(rng.random())}
    result = WorkResult(
        item.work_id, item.step, item.index, item.version, item.tasks, gradient, policy, metrics, 0.1, "w"
    )
    return replace(result, **changes)


def _results(learner: Learner) -> list[WorkResult]:
    state = learner.state
    return [_result(learner, item) for item in work.plan(learner.config, state.step, state.version)]


@settings(max_examples=15)
@given(order=st.permutations(range(ITEMS)), tasks=st.lists(st.integers(1, 9), min_size=ITEMS, max_size=ITEMS))
def test_order_of_completion_does_not_matter(
    order: list[int], tasks: list[int], new_learner: Any, tiny_config: Any, assert_same_state: Any
) -> None:
    config = tiny_config("phases.0.items=5")
    one, other = new_learner(config)[0], new_learner(config)[0]
    for _ in range(2):
        results = [replace(result, tasks=n) for result, n in zip(_results(one), tasks, strict=True)]
        assert one.step(results) == other.step([results[index] for index in order])
        assert_same_state(one.state, other.state)


def test_a_duplicate_changes_nothing_and_is_counted(make: Any, assert_same_state: Any) -> None:
    plain, doubled = make(), make()
    results = _results(plain)
    plain.step(results)
    again = [replace(results[1], gradient=results[1].gradient + 1), results[3], results[3]]
    applied = doubled.step([*results, *again])
    assert applied.verdicts == {Verdict.ACCEPTED: ITEMS, Verdict.DUPLICATE: 3}
    assert doubled.state.counts["duplicate"] == 3
    assert_same_state(replace(plain.state, counts={}), replace(doubled.state, counts={}))


def test_a_result_that_comes_again_a_step_later_is_a_duplicate(make: Any, assert_same_state: Any) -> None:
    plain, doubled = make(), make()
    first = _results(plain)
    for learner in (plain, doubled):
        learner.step(first)
    second = _results(plain)
    plain.step(second)
    applied = doubled.step([first[0], *second, first[4]])
    assert applied.verdicts == {Verdict.ACCEPTED: ITEMS, Verdict.DUPLICATE: 2}
    assert_same_state(replace(plain.state, counts={}), replace(doubled.state, counts={}))


def test_a_stale_result_is_counted_and_not_applied(make: Any, assert_same_state: Any) -> None:
    plain, late = make(), make()
    first = _results(plain)
    straggler = replace(first[2], work_id="never seen")
    for _ in range(2):
        results = _results(plain)
        plain.step(results)
        late.step(results)
    results = _results(plain)
    plain.step(results)
    applied = late.step([straggler, *results])
    assert applied.verdicts == {Verdict.ACCEPTED: ITEMS, Verdict.STALE: 1}
    assert late.state.counts["stale"] == 1
    assert_same_state(replace(plain.state, counts={}), replace(late.state, counts={}))


@pytest.mark.parametrize("age", range(4))
def test_max_staleness_is_the_oldest_version_that_is_applied(tiny_config: Any, new_learner: Any, age: int) -> None:
    learner, _ = new_learner(tiny_config("max_staleness=2", "phases.0.steps=6"))
    for _ in range(4):
        learner.step(_results(learner))
    old = replace(_results(learner)[0], version=learner.state.version - age)
    assert learner.judge(old, set()) is (Verdict.ACCEPTED if age <= 2 else Verdict.STALE)


def test_what_was_applied_is_remembered_for_as_long_as_it_could_come_again(tiny_config: Any, new_learner: Any) -> None:
    learner, _ = new_learner(tiny_config("max_staleness=2", "phases.0.steps=30"))
    history = []
    for _ in range(12):
        results = _results(learner)
        history.append(results)
        learner.step(results)
        for past in history:
            seen = {work_id for _, work_id in learner.state.applied}
            verdicts = {learner.judge(result, seen) for result in past}
            assert verdicts <= {Verdict.DUPLICATE, Verdict.STALE}
    assert len(learner.state.applied) <= 4 * len(history[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["gradient", "policy_update", "metrics"])
def test_a_nonfinite_result_is_counted_and_not_applied(
    make: Any, assert_same_state: Any, value: float, where: str
) -> None:
    plain, broken = make(), make()
    results = _results(plain)
    bad = replace(results[1], gradient=results[1].gradient.copy(), policy_update=results[1].policy_update.copy())
    if where == "metrics":
        bad = replace(bad, metrics={**bad.metrics, "query_loss/0": value})
    else:
        getattr(bad, where)[-1] = value
    plain.step([result for result in results if result.index != 1])
    applied = broken.step([results[0], bad, *results[2:]])
    assert applied.verdicts == {Verdict.ACCEPTED: ITEMS - 1, Verdict.NONFINITE: 1}
    assert broken.state.counts["nonfinite"] == 1
    assert [(q.item.work_id, q.where) for q in applied.quarantined] == [
        (bad.work_id, ("query_loss/0" if where == "metrics" else where,))
    ]
    assert torch.isfinite(broken.state.theta).all()
    assert (plain.state.watch.nonfinite, broken.state.watch.nonfinite) == (0, 1)
    assert_same_state(replace(plain.state, counts={}, watch=Watch()), replace(broken.state, counts={}, watch=Watch()))


def test_without_a_usable_result_the_step_is_a_user_error_and_the_state_stays(
    make: Any, assert_same_state: Any
) -> None:
    learner = make()
    learner.step(_results(learner))
    before = learner.state
    bad = [replace(result, gradient=np.full_like(result.gradient, np.nan)) for result in _results(learner)]
    with pytest.raises(UserError, match=r"step 2: no usable result \(5 nonfinite\).*lower .*learning_rate"):
        learner.step(bad)
    with pytest.raises(UserError, match="step 2: no usable result"):
        learner.step([])
    assert_same_state(learner.state, before)


def test_a_bad_copy_does_not_keep_the_good_one_out(make: Any, assert_same_state: Any) -> None:
    plain, both = make(), make()
    results = _results(plain)
    plain.step(results)
    bad = replace(results[0], gradient=np.full_like(results[0].gradient, np.nan))
    assert both.step([bad, *results]).verdicts == {Verdict.ACCEPTED: ITEMS, Verdict.NONFINITE: 1}
    assert_same_state(replace(plain.state, counts={}, watch=Watch()), replace(both.state, counts={}, watch=Watch()))


def test_results_are_averaged_by_the_tasks_they_stand_for(tiny_config: Any, new_learner: Any) -> None:
    learner, _ = new_learner(
        tiny_config("phases.0.items=2", "phases.0.outer={optimizer: sgd, learning_rate: 1.0, clip: 1e9, warmup: 0}")
    )
    theta = learner.state.theta
    one, three = _results(learner)
    applied = learner.step([replace(one, tasks=1), replace(three, tasks=3)])
    mean = torch.from_numpy(0.25 * one.gradient + 0.75 * three.gradient)
    assert torch.allclose(learner.state.theta, theta - mean, atol=1e-5)
    assert applied.metrics["loss"] == pytest.approx(0.25 * one.metrics["loss"] + 0.75 * three.metrics["loss"])
    assert (applied.tasks, learner.state.tasks) == (4, 4)
    assert applied.gradient_norm == pytest.approx(float(mean.norm()), rel=1e-5)


def test_a_step_makes_a_new_state_and_leaves_the_old_one_as_it_was(make: Any) -> None:
    learner = make()
    learner.step(_results(learner))
    old, snapshot = learner.state, learner.snapshot()
    copies = (old.theta.clone(), old.policy.clone(), snapshot.theta.copy())
    moments = {name: value.clone() for name, value in {**old.moments, **old.policy_moments}.items()}
    learner.step(_results(learner))
    assert (learner.state.step, learner.state.version) == (old.step + 1, old.version + 1) == (2, 2)
    assert torch.equal(old.theta, copies[0])
    assert torch.equal(old.policy, copies[1])
    assert np.array_equal(snapshot.theta, copies[2])
    assert all(torch.equal(moments[name], value) for name, value in {**old.moments, **old.policy_moments}.items())
    assert not torch.equal(learner.state.theta, old.theta)
    assert not torch.equal(learner.state.policy, old.policy)


def test_a_snapshot_is_theta_and_policy(make: Any) -> None:
    learner = make()
    learner.step(_results(learner))
    snapshot = learner.snapshot()
    assert snapshot.version == 1
    assert snapshot.theta.dtype == snapshot.policy.dtype == np.float32
    assert np.array_equal(snapshot.theta, learner.state.theta.numpy())
    assert np.array_equal(snapshot.policy, learner.state.policy.numpy())


def test_a_phase_ends_in_the_mean_and_the_next_one_starts_with_an_optimiser_of_its_own(
    tiny_config: Any, new_learner: Any
) -> None:
    learner, _ = new_learner(tiny_config("ema=0.9"))
    for _ in range(2):
        learner.step(_results(learner))
    assert not torch.equal(learner.state.theta, learner.state.mean)
    assert float(learner.state.moments["count"]) == 2
    learner.step(_results(learner))
    assert torch.equal(learner.state.theta, learner.state.mean)
    for moments in (learner.state.moments, learner.state.policy_moments):
        assert not any(value.any() for value in moments.values())
    learner.step(_results(learner))
    assert float(learner.state.moments["count"]) == 1


def test_the_mean_runs_behind_theta_and_without_ema_is_theta(tiny_config: Any, new_learner: Any) -> None:
    learner, _ = new_learner(tiny_config("ema=0.99", "phases.0.steps=9"))
    for step in range(5):
        before = learner.state
        learner.step(_results(learner))
        decay = (1 + step) / (10 + step)
        expected = decay * before.mean + (1 - decay) * learner.state.theta
        assert torch.allclose(learner.state.mean, expected, atol=1e-6)
    plain, _ = new_learner(tiny_config("ema=0"))
    plain.step(_results(plain))
    assert torch.equal(plain.state.mean, plain.state.theta)


def test_a_frozen_generator_stays_while_the_policy_learns(tiny_config: Any, new_learner: Any) -> None:
    learner, _ = new_learner(tiny_config("phases.0.outer.freeze_generator=true"))
    before = learner.state
    for _ in range(3):
        learner.step(_results(learner))
    assert torch.equal(learner.state.theta, before.theta)
    assert torch.equal(learner.state.mean, before.mean)
    assert not torch.equal(learner.state.policy, before.policy)


def test_the_policy_is_stepped_by_adam_against_its_gradient(tiny_config: Any, new_learner: Any) -> None:
    learner, _ = new_learner(
        tiny_config(
            "phases.0.items=1", "phases.0.outer={policy_learning_rate: 0.1, schedule: constant, warmup: 0}", "ema=0"
        )
    )
    parameter = torch.nn.Parameter(learner.state.policy.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.99))
    for _ in range(2):
        [result] = _results(learner)
        learner.step([result])
        parameter.grad = torch.from_numpy(result.policy_update.copy())
        optimizer.step()
        assert torch.allclose(learner.state.policy, parameter.detach(), rtol=1e-5, atol=1e-6)
