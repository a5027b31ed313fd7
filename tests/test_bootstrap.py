from __future__ import annotations

import numpy as np
import pytest

from metagen.bootstrap import around, bounds, by_class, interval, members, paired


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        found = interval(rng.normal(3.0, 2.0, size=30))
        assert found["low"] < found["mean"] < found["high"]
        inside += found["low"] <= 3.0 <= found["high"]
    assert 0.90 <= inside / 300 <= 0.98


def test_an_interval_is_the_same_every_time_and_of_one_value_a_point() -> None:
    values = np.random.default_rng(1).random(12)
    assert interval(values) == interval(values)
    assert interval(np.full(5, 0.25)) == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_losses_that_diverged_leave_no_end_without_a_number() -> None:
    """Of four classes one is infinite: most draws hold it, some do not."""
    found = interval(np.array([0.1, 0.2, 0.3, np.inf]))
    assert found["mean"] == found["high"] == np.inf
    assert 0.1 <= found["low"] <= 0.3
    assert interval(np.full(3, np.inf)) == dict.fromkeys(("mean", "low", "high"), np.inf)
    assert np.isnan(paired(np.array([np.inf, 0.1]), np.array([np.inf, 0.2]))["mean"])
    assert paired(np.array([np.inf, 0.1]), np.array([0.3, 0.2]))["mean"] == np.inf
    assert bounds([found, interval(np.array([0.5]))]) == (found["low"], 0.5)


def test_one_run_is_no_different_for_being_in_a_list() -> None:
    values = np.random.default_rng(1).random(12)
    assert interval(values[None]) == interval(values)


def test_runs_that_differ_widen_the_interval_though_their_classes_agree() -> None:
    classes = np.random.default_rng(2).normal(size=40)
    alike, apart = interval(np.stack([classes] * 3)), interval(np.stack([classes - 1, classes, classes + 1]))
    assert apart["mean"] == pytest.approx(alike["mean"])
    assert apart["high"] - apart["low"] > 1.5 * (alike["high"] - alike["low"])


def test_of_three_runs_the_interval_covers_a_mean_over_runs_and_classes() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        found = interval(rng.normal(size=(3, 1)) * 0.2 + rng.normal(size=(1, 40)) + rng.normal(size=(3, 40)))
        inside += found["low"] <= 0 <= found["high"]
    assert inside / 200 >= 0.88  # three runs say little of how runs differ


def test_around_a_pooled_mean_it_is_the_interval_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(size=200)
    pooled = around(float(values.mean()), lambda rows: float(values[rows].mean()), len(values))
    classes = interval(values)
    assert pooled["mean"] == classes["mean"]
    assert pooled["high"] - pooled["low"] == pytest.approx(classes["high"] - classes["low"], rel=0.25)


def test_categories_are_reported_where_there_are_two() -> None:
    values = np.array([1.0, 2.0, 4.0])
    found = by_class(values, ["a", "b", "c"], ["x", "y", "x"])
    assert found["per_class"] == {"a": 1.0, "b": 2.0, "c": 4.0}
    assert found["by_category"] == {
        "x": {**interval(values[[0, 2]]), "classes": 2},
        "y": {**interval(values[[1]]), "classes": 1},
    }
    for categories in (["", "", ""], ["x", "x", "x"], ["x", "", "x"]):
        assert "by_category" not in by_class(values, ["a", "b", "c"], categories)
        assert members(categories) == {}
