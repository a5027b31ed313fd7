from __future__ import annotations

from typing import Any

import pytest
import torch

from metagen import budget, tasks, work

PHASES = "phases=[{estimator: joint, steps: 60, items: 2, tasks: 2}, {estimator: joint, steps: 20, items: 3, tasks: 2}]"


@pytest.fixture
def parts(tiny_config: Any) -> Any:
    """Parts of a run of two phases with a budget."""

    def make(*assignments: str) -> work.Parts:
        config = tiny_config(PHASES, *assignments)
        return work.build(config, tasks.load(config.data))

    return make


def test_without_a_budget_nothing_is_measured_and_nothing_changes(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(budget, "_item_seconds")
    made = parts()
    assert budget.fit(made, 1) is made.config


def test_a_run_that_fits_keeps_its_steps(parts: Any) -> None:
    made = parts("budget=10000")
    assert budget.fit(made, 1) is made.config


def test_a_run_that_does_not_fit_keeps_the_shares_of_its_phases(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_item_seconds", lambda parts, phase: [1.0, 2.0][phase])
    monkeypatch.setattr(budget, "OVERHEAD", 1.0)
    serial = 60 * 2 * 1.0 + 20 * 3 * 2.0
    config = budget.fit(parts(f"budget={serial / 2}"), 1)
    assert [phase.steps for phase in config.phases] == [30, 10]
    in_pairs = 60 * 1 * 1.0 + 20 * 2 * 2.0  # three items for two workers take two turns
    config = budget.fit(parts(f"budget={in_pairs / 4}"), 2)
    assert [phase.steps for phase in config.phases] == [15, 5]


def test_an_item_takes_the_mean_of_several_looks(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parts("budget=1")
    for looks, expected in (([0.25, 0.5, 0.75, 9.0], 0.5), ([2.5, 9.0], 2.5)):  # three looks, or enough in one
        times = iter(looks)
        monkeypatch.setattr(budget, "timed", lambda run, device, repeats, times=times: next(times))
        item = work.plan(made.config, 0, 0)[0]
        assert budget._item_seconds(made, 0) == expected * item.tasks / max(1, item.tasks // 2)


def test_every_phase_keeps_a_step_however_small_the_budget(parts: Any) -> None:
    config = budget.fit(parts("budget=0.000001"), 1)
    assert [phase.steps for phase in config.phases] == [1, 1]


def test_measuring_changes_nothing(parts: Any) -> None:
    made, state = parts("budget=0.000001"), torch.get_rng_state()
    before = made.problem.network.initial.clone()
    budget.fit(made, 1)
    assert torch.equal(made.problem.network.initial, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_exact_number_of_steps_overrules_the_budget(parts: Any) -> None:
    assert parts("budget=1").config.with_steps(40).budget is None
