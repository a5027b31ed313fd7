"""Intervals: how far a mean over a few classes can be trusted.

Classes are the clusters: images of one class are alike, so it is whole classes that are drawn anew, and with several
training runs whole runs too (the pigeonhole bootstrap, Owen 2007, arXiv:0712.1111).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metagen.seeding import numpy_generator

RESAMPLES, POOLED_RESAMPLES = 2000, 100
LEVEL = 95
"""Percent of the time that an interval should hold the true value."""
_TAILS = (50 - LEVEL / 2, 50 + LEVEL / 2)

Values = NDArray[np.float64]
Report = dict[str, object]


def interval(values: Values, seed: int = 0) -> dict[str, float]:
    """``mean`` of ``values [classes]`` or ``[runs, classes]``; ``low`` and ``high`` of its 95% bootstrap interval.

    Values may be infinite, as losses of what has diverged are; the ends are then infinite too, or one of the means.
    """
    values, rng = np.atleast_2d(values), numpy_generator(seed, "bootstrap")
    runs, classes = values.shape
    columns = rng.integers(classes, size=(RESAMPLES, classes))
    if runs == 1:
        means = values[0][columns].mean(1)
    else:
        rows = rng.integers(runs, size=(RESAMPLES, runs))
        means = values[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    # Between a number and infinity there is nothing to interpolate.
    low, high = np.percentile(means, _TAILS, method="linear" if np.isfinite(means).all() else "inverted_cdf")
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def paired(mine: Values, others: Values) -> dict[str, float]:
    """``interval`` of the differences ``mine - others``; nan where the two of a pair are infinite alike."""
    with np.errstate(invalid="ignore"):
        return interval(mine - others)


def bounds(intervals: Iterable[Mapping[str, float]]) -> tuple[float, float]:
    """The least and the greatest finite end: what a chart of ``intervals`` spans; (0, 0) if there is none."""
    ends = [end for each in intervals for end in (each["low"], each["high"]) if math.isfinite(end)]
    return min(ends, default=0.0), max(ends, default=0.0)


def around(value: float, again: Callable[[NDArray[np.int64]], float], classes: int, seed: int = 0) -> dict[str, float]:
    """``value``, of all classes pooled, and its 95% interval from the bootstrap's standard deviation.

    ``again`` gives the value of classes drawn anew (indices ``[classes]``). Percentiles would not do for a Frechet
    distance: drawing anew leaves fewer different images, which raises all of its values alike.
    """
    rng = numpy_generator(seed, "bootstrap of pooled classes")
    draws = [again(rng.integers(classes, size=classes)) for _ in range(POOLED_RESAMPLES)]
    half = 1.96 * float(np.std(draws, ddof=1))
    return {"mean": value, "low": value - half, "high": value + half}


def by_class(values: Values, classes: Sequence[str], categories: Sequence[str]) -> Report:
    """``interval`` of ``values [classes]``, each class's value, and the intervals of categories where there are two.

    ``categories`` names one a class; '' for none.
    """
    report: Report = {**interval(values), "per_class": dict(zip(classes, values.tolist(), strict=True))}
    if groups := members(categories):
        report["by_category"] = {
            name: {**interval(values[rows]), "classes": len(rows)} for name, rows in groups.items()
        }
    return report


def members(categories: Sequence[str]) -> Mapping[str, list[int]]:
    """Which classes belong to each category, by name; empty where there are not two of them."""
    names = sorted({name for name in categories if name})
    found = {name: [row for row, category in enumerate(categories) if category == name] for name in names}
    return found if len(found) > 1 else {}
