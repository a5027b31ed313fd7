"""Schedulers of Ray Tune by name, and how those that compare trials one by one learn of earlier sessions."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

from pydantic import Field
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from metagen.registry import find, options_of
from metagen.search.config import SweepConfig
from metagen.search.ledger import ENDED, Progress
from metagen.search.models import optional
from metagen.search.space import Domain, Space
from metagen.strict import Strict


def _compared(sweep: SweepConfig) -> dict[str, Any]:
    """When schedulers compare trials, and by what."""
    return {"time_attr": "rung", "metric": sweep.objectives[0], "mode": "min"}


class Fifo:
    """Every trial to its end."""

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: None) -> TrialScheduler:
        return FIFOScheduler()


class AshaOptions(Strict):
    grace: int = Field(1, ge=1)
    """Rungs that every trial is given."""
    factor: float = Field(3.0, gt=1)
    """One in so many goes on at each rung of the ladder."""


class _Quiet:
    """Keeps from the terminal what numpy and sklearn warn of: a trial that diverged has an infinite loss, which ranks
    as the worst all the same; and with few points a kernel's bound is as good as any."""

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decision: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        return decision


class _Halving(_Quiet, AsyncHyperBandScheduler):
    """Successive halving among trials of which some diverge."""


class Asha:
    """Asynchronous successive halving (Li et al. 2018)."""

    Options = AshaOptions
    one_by_one = True

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: AshaOptions) -> TrialScheduler:
        return _Halving(
            **_compared(sweep),
            max_t=sweep.rungs + 1,  # a trial ends by itself at its last rung
            grace_period=min(options.grace, sweep.rungs),
            reduction_factor=options.factor,
        )


class HyperbandOptions(Strict):
    factor: float = Field(3.0, gt=1)


class Hyperband:
    """HyperBand's brackets (Li et al. 2016), filled the largest first, as BOHB has them."""

    Options = HyperbandOptions

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: HyperbandOptions) -> TrialScheduler:
        return HyperBandForBOHB(**_compared(sweep), max_t=sweep.rungs, reduction_factor=options.factor)


class MedianOptions(Strict):
    grace: int = Field(1, ge=0)
    least: int = Field(3, ge=1)
    """Trials that must have come as far before one is stopped."""


class Median:
    """Stops trials whose best is worse than the median of the others' running means (Golovin et al. 2017)."""

    Options = MedianOptions
    one_by_one = True

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: MedianOptions) -> TrialScheduler:
        never: Any = math.inf  # pauses no trial to let others catch up: to start it again costs more
        return MedianStoppingRule(
            **_compared(sweep),
            grace_period=options.grace,
            min_samples_required=options.least,
            min_time_slice=never,
        )


class _Founded:
    """Lets a population begin with the proposals of a searcher, which Tune's own refuse: a searcher of Tune would not
    know of the changed configs. Ours reads them in the ledger."""

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[misc]


class _Population(_Founded, PopulationBasedTraining):
    """Population based training over the trials that a proposer founds the population with."""


class PbtOptions(Strict):
    every: int = Field(1, ge=1)
    """Rungs between exploitations."""
    quantile: float = Field(0.25, ge=0, le=0.5)
    """Share of the population that copies, and that is copied."""
    resample: float = Field(0.25, ge=0, le=1)
    """Chance that a hyperparameter is drawn anew and not perturbed."""


class Pbt:
    """Population based training (Jaderberg et al. 2017): weights copied through our checkpoints."""

    Options = PbtOptions

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: PbtOptions) -> TrialScheduler:
        return _Population(
            **_compared(sweep),
            perturbation_interval=options.every,
            hyperparam_mutations={name: _mutations(domain) for name, domain in space.parameters.items()},
            quantile_fraction=options.quantile,
            resample_probability=options.resample,
            custom_explore_fn=_Within(space.parameters),
            log_config=False,
        )


class Pb2Options(Strict):
    every: int = Field(1, ge=1)
    quantile: float = Field(0.25, ge=0, le=0.5)


class Pb2:
    """Population based bandits (Parker-Holder et al. 2020): a Gaussian process chooses how to perturb."""

    Options = Pb2Options

    @staticmethod
    def make(sweep: SweepConfig, space: Space, options: Pb2Options) -> TrialScheduler:
        optional("sklearn", "schedule pb2")
        from ray.tune.schedulers.pb2 import PB2

        class Bandits(_Quiet, _Founded, PB2):
            """PB2 over the trials that a proposer founds the population with."""

        bounds: dict[str, Any] = {name: list(domain.ends) for name, domain in space.parameters.items()}
        return Bandits(
            **_compared(sweep),
            perturbation_interval=options.every,
            hyperparam_bounds=bounds,
            quantile_fraction=options.quantile,
            log_config=False,
        )


class _Within:
    """Keeps perturbed values inside their domains."""

    def __init__(self, parameters: dict[str, Domain]) -> None:
        self.parameters = parameters

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        for name, domain in self.parameters.items():
            if domain.finite is None:
                low, high = domain.ends
                config[name] = min(max(float(config[name]), low), high)
        return config


def _mutations(domain: Domain) -> Any:
    if domain.finite is not None:
        return list(domain.finite)
    if domain.loguniform is not None:
        return tune.loguniform(*domain.loguniform)
    assert domain.uniform is not None
    return tune.uniform(*domain.uniform)


SCHEDULERS: dict[str, Any] = {
    "none": Fifo,
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "pbt": Pbt,
    "pb2": Pb2,
}


class _Past:
    """A trial of an earlier session, as far as a scheduler looks at it."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"earlier-{number}"


def scheduler_of(sweep: SweepConfig, space: Space, progress: Progress) -> TrialScheduler:
    """The scheduler that a sweep names, told of what ended in earlier sessions where it compares one by one.

    HyperBand's brackets and populations are of trials that run together: they are formed anew from those that go on.
    """
    entry = find("schedule", sweep.schedule.name, SCHEDULERS)
    options = options_of(f"schedule {sweep.schedule.name}", entry, sweep.schedule.options)
    scheduler: Any = entry.make(sweep, space, options)
    if getattr(entry, "one_by_one", False):
        for trial in progress.trials.values():
            if trial.status in ENDED and trial.results and trial.status not in ("failed", "refused"):
                past: Any = _Past(trial.number)
                scheduler.on_trial_add(None, past)
                for result in trial.results:
                    scheduler.on_trial_result(None, past, {**result, "time_total_s": 0.0})
    made: TrialScheduler = scheduler
    return made
