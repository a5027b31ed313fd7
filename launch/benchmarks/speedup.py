"""How many steps, and how much time, the meta-trained model needs for what a tuned baseline reaches at its best.

``S = k_baseline / k_meta``: for each class the step at which the baseline has its best loss within the horizon, over
the first at which the meta-trained model is at least as good. A class that it never is as good on is censored: its
``S`` is only known to be less than that of the whole horizon, and it counts as that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metagen.bootstrap import RESAMPLES, Values
from metagen.evaluate import Bench, Method
from metagen.metrics.query_loss import query_loss
from metagen.seeding import numpy_generator, torch_generator

HORIZON = 200
STEPS = (0, 1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 150, HORIZON)


@dataclass(frozen=True)
class Curve:
    """Losses along one adaptation of each class, and what a step takes."""

    losses: Values
    """``[classes, len(STEPS)]``."""
    seconds: float
    """Of one inner step, mean over all of them; the time that the losses are taken in does not count."""


def curve(bench: Bench, method: Method, steps: Sequence[int]) -> Curve:
    """Adapt to every class of ``bench`` for the whole horizon; as ``Bench.losses``, with a clock."""
    losses, spent = np.zeros((len(bench.classes), len(steps))), 0.0
    for row, index in enumerate(bench.classes):
        episode, name = bench.episode(index), bench.images.classes[index]
        walk = method.adapted(episode.support, steps, torch_generator(bench.seed, "adaptation", name))
        for column in range(len(steps)):
            before = time.perf_counter()
            _, parameters = next(walk)
            spent += time.perf_counter() - before
            bank = torch_generator(bench.seed, "bank", name)
            losses[row, column] = query_loss(method.problem, parameters, episode.support, episode.query, bank)
    return Curve(losses, spent / (len(bench.classes) * max(steps)))


def speed_up(meta: Curve, baseline: Curve, steps: Sequence[int]) -> dict[str, Any]:
    """S over classes and of the mean curves, in steps and in time; at least one step counts for either."""
    pace = meta.seconds / baseline.seconds
    found = [_reach(m, b, steps) for m, b in zip(meta.losses, baseline.losses, strict=True)]
    ratios = np.array([max(base, 1) / max(steps[-1] if mine is None else mine, 1) for mine, base in found])
    mean_mine, mean_base = _reach(meta.losses.mean(0), baseline.losses.mean(0), steps)
    whole = None if mean_mine is None else max(mean_base, 1) / max(mean_mine, 1)
    return {
        "classes": len(found),
        "censored": sum(mine is None for mine, _ in found),
        "already_at_start": sum(mine == 0 for mine, _ in found),
        "median_steps": _median(ratios),
        "median_time": _median(ratios / pace),
        "share_at_most_a_quarter": float((ratios >= 4).mean()),
        "of_mean_curves": {
            "best_loss_of_baseline": float(baseline.losses.mean(0).min()),
            "baseline_steps": mean_base,
            "meta_steps": mean_mine,
            "steps": whole,
            "time": None if whole is None else whole / pace,
        },
        "seconds_a_step": {"meta": meta.seconds, "baseline": baseline.seconds},
    }


def _reach(mine: Values, base: Values, steps: Sequence[int]) -> tuple[int | None, int]:
    """The first step at which ``mine [len(steps)]`` is as good as ``base`` at its best, None for never; and base's."""
    enough = np.flatnonzero(mine <= base.min())
    return (steps[int(enough[0])] if len(enough) else None), steps[int(base.argmin())]


def _median(ratios: Values) -> dict[str, float]:
    """Median over classes and its 95% bootstrap interval."""
    rng = numpy_generator("bootstrap of medians")
    draws = np.median(ratios[rng.integers(len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}
