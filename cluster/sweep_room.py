"""What a trial of a sweep takes, and how many there is room for."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

from ray import tune

from cluster.connect import ROUNDING
from metagen.errors import UserError
from metagen.search.config import SweepConfig


def resources(sweep: SweepConfig) -> tune.PlacementGroupFactory:
    """The placement group of a trial: its own process, then its actors."""
    trial = sweep.trial
    worker = {"CPU": trial.cpus, **({"GPU": trial.gpus} if trial.gpus else {})}
    bundles = [{"CPU": trial.driver}, *[worker] * trial.actors] if trial.actors else [worker]
    return tune.PlacementGroupFactory(bundles, strategy="PACK")


def room(sweep: SweepConfig, have: Mapping[str, float]) -> int:
    """Trials that there is room for at a time in what there is, by Ray's names; ``UserError`` if there is for none."""
    need = {name: amount for name, amount in resources(sweep).required_resources.items() if amount}
    fit = {name: int(have.get(name, 0.0) / amount + ROUNDING) for name, amount in need.items()}
    for name, trials in fit.items():
        if not trials:
            needs = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
            there = " and ".join(f"{have.get(name, 0.0):g} {name}" for name in need)
            fix = _fix(sweep, name, have.get(name, 0.0))
            raise UserError(
                f"a trial needs {needs}, there are {there}: use --set {fix} (of a sweep to resume: in its sweep.yaml)"
            )
    return min(fit.values())


def _fix(sweep: SweepConfig, name: str, there: float) -> str:
    """What to set for a trial to have room where ``there`` is too little of ``name``: fewer actors, or smaller ones."""
    trial = sweep.trial
    each, key = (trial.cpus, "trial.cpus") if name == "CPU" else (trial.gpus, "trial.gpus")
    left = there - trial.driver if trial.actors and name == "CPU" else there
    if trial.actors and (actors := int(left / each + ROUNDING)) > 0:
        return f"trial.actors={actors}"
    share = floor(100 * left / max(trial.actors, 1) + ROUNDING) / 100  # rounded down, so that all of them have room
    if share > 0 or name == "GPU":
        return f"{key}={max(share, 0):g}"
    fix = "trial.actors=0"  # the trial's own process does the work
    return fix if trial.cpus <= there else f"{fix} --set trial.cpus={there:g}"
