"""How much each choice matters: a forest is fitted to the trials, and each parameter shuffled in turn.

Permutation importance (Breiman 2001) takes conditional parameters as they are; an inactive one is a value of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metagen.search.ledger import Tried
from metagen.search.space import Space

LEAST = 8
"""Trials that a forest must have to say anything."""


@dataclass(frozen=True)
class Importance:
    """Shares of the parameters, the largest first; they add up to 1."""

    rung: int
    """All trials are compared at this rung: the last that at least half of them reached."""
    trials: int
    fit: float
    """R^2 of the forest on trials that a tree has not seen; where it is near 0, the shares say little."""
    shares: dict[str, float]


def importance(space: Space, trials: Sequence[Tried], seed: int = 0) -> Importance | None:
    """Of the loss; None where too few trials were judged."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    judged = [trial for trial in trials if trial.results and trial.status not in ("failed", "refused")]
    reached = sorted(trial.results[-1]["rung"] for trial in judged)
    if len(judged) < LEAST:
        return None
    rung = reached[len(reached) // 2]
    rows, losses = [], []
    for trial in judged:
        at = [result["loss"] for result in trial.results if result["rung"] == rung]
        if at:
            rows.append([_number(space, name, trial) for name in space.parameters])
            losses.append(at[-1])
    if len(rows) < LEAST:
        return None
    x, y = np.array(rows), np.array(losses)
    forest = RandomForestRegressor(n_estimators=100, oob_score=True, random_state=seed).fit(x, y)
    drops = permutation_importance(forest, x, y, n_repeats=10, random_state=seed).importances_mean.clip(min=0)
    total = float(drops.sum()) or 1.0
    shares = {name: float(drop) / total for name, drop in zip(space.parameters, drops, strict=True)}
    ordered = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    return Importance(rung, len(rows), float(forest.oob_score_), ordered)


def _number(space: Space, name: str, trial: Tried) -> float:
    """A value as a number that keeps order: its place among finite ones, a logarithm on a log scale; -1 if inactive."""
    if name not in trial.assignment:
        return -1.0
    domain, value = space.parameters[name], trial.assignment[name]
    if domain.choice is not None:
        return float(domain.labels.index(domain.label(value)))
    return float(np.log(value)) if domain.loguniform is not None else float(value)
