"""What benchmarks/policy.py makes of losses, on losses where the answer is known."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOMAINS, SEEDS, CLASSES = ("near", "far"), (0, 1), 30
SIZES = {"small": {"near": 0.02, "far": 0.03}, "large": {"near": -0.04, "far": 0.08}}
"""What each fixed method gains after all 20 steps."""
MOVED = {"small:relocated": {"near": 0.02, "far": 0.05}, "large:relocated": {"near": -0.04, "far": 0.09}}
"""The same where drawings are relocated."""


@pytest.fixture(scope="module")
def module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return importlib.import_module("policy_summary")


def _found(module: Any, gains: dict[str, dict[str, float]], seed: int) -> dict[Any, Any]:
    """Losses that start anywhere and fall in proportion to the steps, with noise."""
    rng, steps = np.random.default_rng(seed), np.array(module.STEPS)
    start = {domain: rng.normal(1.0, 0.3, CLASSES) for domain in DOMAINS}
    return {
        (s, method, domain): {
            "steps": list(module.STEPS),
            "losses": (start[domain][:, None] - gain[domain] * steps / 20 + rng.normal(0, 1e-3, (CLASSES, len(steps)))),
        }
        for s in SEEDS
        for method, gain in gains.items()
        for domain in DOMAINS
    }


def _summary(module: Any, arm: dict[str, float]) -> dict[str, Any]:
    tuning, test = _found(module, SIZES | MOVED, 0), _found(module, {**SIZES, **MOVED, "arm": arm}, 1)
    found: dict[str, Any] = module.summary(tuning, ["arm"], SEEDS, DOMAINS, test)
    return found


def test_fixed_choices_are_the_best_on_validation_classes(module: Any) -> None:
    """Large steps ruin the near set: small ones are the best single choice, and each set has its own best."""
    choices = _summary(module, {"near": 0, "far": 0})["choices"]
    for end in ("", module.RELOCATED):
        best = {(c["for"], c["budget"]): (c["method"], c["steps"]) for c in choices["0"] if c["relocated"] == bool(end)}
        assert best["all", 20] == (f"small{end}", 20)
        assert best["near", 10] == (f"small{end}", 10)
        assert best["far", 5] == (f"large{end}", 5)


@pytest.mark.parametrize(
    ("arm", "a", "b"),
    [
        ({"near": 0.02, "far": 0.1}, True, True),
        ({"near": 0.01, "far": 0.1}, True, False),  # behind the best choice for one data set
        ({"near": 0.01, "far": 0.02}, False, False),
    ],
)
def test_the_verdict_says_whether_both_figures_are_reached(
    module: Any, arm: dict[str, float], a: bool, b: bool
) -> None:
    found = _summary(module, arm)
    verdict = found["verdicts"]["arm"]
    assert (verdict["a"], verdict["b"]) == (a, b)
    assert (verdict["relocated"]["a"], verdict["relocated"]["b"]) == (a, b)
    assert all(verdict["beats_single"].values()) == a
    assert all(
        entry["better_on"] == (["far"] if arm["far"] > 0.08 else []) for entry in verdict["against_oracle"].values()
    )
    row = found["methods"]["arm"]
    for key, choice in (("minus_single", SIZES["small"]), ("minus_single_relocated", MOVED["small:relocated"])):
        difference = row[key]["20"]
        for domain in DOMAINS:
            assert difference[domain]["mean"] == pytest.approx(choice[domain] - arm[domain], abs=2e-3)
            assert difference[domain]["low"] <= difference[domain]["mean"] <= difference[domain]["high"]
    assert difference["all"]["mean"] == pytest.approx(np.mean([difference[d]["mean"] for d in DOMAINS]))


def test_a_class_counts_once_whatever_its_seeds_and_a_data_set_once_whatever_its_classes(module: Any) -> None:
    rng = np.random.default_rng(0)
    per_class = rng.normal(size=40)
    once, thrice = (module.clustered({"a": np.tile(per_class, (seeds, 1))}) for seeds in (1, 3))
    assert once == pytest.approx(thrice)
    wide = once["high"] - once["low"]
    assert wide == pytest.approx(2 * 1.96 * per_class.std() / 40**0.5, rel=0.15)
    mixed = module.clustered({"few": np.zeros((1, 3)), "many": np.ones((1, 300))})
    assert mixed["mean"] == mixed["low"] == mixed["high"] == 0.5
