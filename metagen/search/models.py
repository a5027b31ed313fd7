"""Proposals by models of what was tried: Optuna's samplers, asked and told (https://optuna.readthedocs.io)."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

from pydantic import Field

from metagen.errors import UserError
from metagen.search.config import SweepConfig
from metagen.search.ledger import ENDED, Progress, Tried
from metagen.search.space import Assignment, Domain, Space
from metagen.seeding import numpy_generator, seed_for
from metagen.strict import Strict


class TpeOptions(Strict):
    startup: int = Field(8, ge=0)
    """Trials at random before the model is used."""
    multivariate: bool = True
    """Whether parameters are modelled together."""


class Nsga2Options(Strict):
    population: int = Field(16, ge=2)


class Optuna:
    """One study, asked for every proposal and told of every trial."""

    def __init__(self, sweep: SweepConfig, space: Space, sampler: Callable[[int], Any]) -> None:
        self.sweep, self.space, self._sampler = sweep, space, sampler
        self.optuna = quiet_optuna(sweep.search.name)
        self.study = self._study(seed_for(sweep.seed, "sampler"))
        self.asked: Any = None
        self.trials: dict[int, Any] = {}

    def _study(self, seed: int) -> Any:
        return self.optuna.create_study(
            directions=["minimize"] * len(self.sweep.objectives), sampler=self._sampler(seed)
        )

    def propose(self, attempt: int) -> Assignment | None:
        if given := self.sweep.given(attempt):
            self.study.enqueue_trial(described(self.optuna, self.space, given)["params"])
        self.asked = self.study.ask()
        return self.space.assign(suggesting(self.asked))

    def take(self, number: int) -> None:
        self.trials[number] = self.asked

    def refuse(self) -> None:
        self.study.tell(self.asked, state=self.optuna.trial.TrialState.FAIL)

    def judge(self, number: int, result: dict[str, Any]) -> None:
        if len(self.sweep.objectives) == 1:
            self.trials[number].report(result[self.sweep.objectives[0]], result["rung"])

    def end(self, trial: Tried) -> None:
        state, values = self._verdict(trial)
        self.study.tell(self.trials.pop(trial.number), values, state=state)

    def _verdict(self, trial: Tried) -> tuple[Any, list[float] | None]:
        states, values = self.optuna.trial.TrialState, [trial.objective(name) for name in self.sweep.objectives]
        if trial.status in ("failed", "refused") or not all(map(math.isfinite, values)):
            return states.FAIL, None
        if trial.status == "stopped":
            return states.PRUNED, None  # TPE ranks it by how far it came and its value there
        return states.COMPLETE, values

    def _recalled(self, trial: Tried, values: list[float] | None) -> list[float] | None:
        return [trial.objective(self.sweep.objectives[0])] if trial.status == "stopped" and trial.results else values

    def recall(self, progress: Progress) -> None:
        """Ended trials as they were told; unfinished ones as running trials, to be told of later."""
        for trial in progress.trials.values():
            state, values = self._verdict(trial)
            ended = trial.status in ENDED
            created = self.optuna.trial.create_trial(
                state=state if ended else self.optuna.trial.TrialState.RUNNING,
                values=self._recalled(trial, values) if ended else None,
                **described(self.optuna, self.space, trial.assignment),
                intermediate_values={r["rung"]: r[self.sweep.objectives[0]] for r in trial.results}
                if len(self.sweep.objectives) == 1 and state != self.optuna.trial.TrialState.FAIL
                else {},
            )
            self.study.add_trial(created)
            if not ended:
                stored = self.study.get_trials(deepcopy=False)[-1]
                self.trials[trial.number] = self.optuna.trial.Trial(self.study, stored._trial_id)
        # Other draws than those that the sessions before began with.
        self.study.sampler = self._sampler(seed_for(self.sweep.seed, "sampler", progress.attempts))


class Tpe(Optuna):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), several objectives too (Ozaki et al. 2020)."""

    Options = TpeOptions

    def __init__(self, sweep: SweepConfig, space: Space, options: TpeOptions) -> None:
        def sampler(seed: int) -> Any:
            return tpe(self.optuna, seed, options.startup, options.multivariate)

        super().__init__(sweep, space, sampler)


class Nsga2(Optuna):
    """NSGA-II (Deb et al. 2002): a front of several objectives."""

    Options = Nsga2Options

    def __init__(self, sweep: SweepConfig, space: Space, options: Nsga2Options) -> None:
        def sampler(seed: int) -> Any:
            return self.optuna.samplers.NSGAIISampler(population_size=options.population, seed=seed % 2**32)

        super().__init__(sweep, space, sampler)


class BohbOptions(Strict):
    least: int | None = Field(None, ge=1)
    """Judgements at a rung before its model is used; None for two more than there are parameters."""
    random: float = Field(1 / 3, ge=0, le=1)
    """Share of proposals at random."""


class Bohb:
    """BOHB (Falkner et al. 2018): densities of good and bad choices at the highest rung that enough trials reached.

    One study a rung; each proposal asks that of the highest with a model. For the scheduler ``hyperband``.
    """

    Options = BohbOptions

    def __init__(self, sweep: SweepConfig, space: Space, options: BohbOptions) -> None:
        self.sweep, self.space, self.options = sweep, space, options
        self.least = options.least or len(space.parameters) + 2
        self.optuna = quiet_optuna(sweep.search.name)
        self.studies: dict[int, Any] = {}
        self.proposed: Assignment = {}
        self.assignments: dict[int, Assignment] = {}

    def propose(self, attempt: int) -> Assignment | None:
        if given := self.sweep.given(attempt):
            self.proposed = given
            return given
        rng = numpy_generator(self.sweep.seed, "bohb", attempt)
        known = [rung for rung, study in self.studies.items() if len(study.trials) >= self.least]
        if not known or rng.random() < self.options.random:
            self.proposed = self.space.draw(rng)
            return self.proposed
        study = self.studies[max(known)]
        study.sampler = tpe(self.optuna, seed_for(self.sweep.seed, "sampler", attempt), startup=0, multivariate=True)
        # Asked in a study of its own copy's: a proposal is no observation of this rung yet.
        asking = self.optuna.create_study(sampler=study.sampler)
        asking.add_trials(study.trials)
        self.proposed = self.space.assign(suggesting(asking.ask()))
        return self.proposed

    def take(self, number: int) -> None:
        self.assignments[number] = self.proposed

    def refuse(self) -> None: ...

    def judge(self, number: int, result: dict[str, Any]) -> None:
        study = self.studies.setdefault(result["rung"], self.optuna.create_study())
        described_so = described(self.optuna, self.space, self.assignments[number])
        study.add_trial(self.optuna.trial.create_trial(value=result[self.sweep.objectives[0]], **described_so))

    def end(self, trial: Tried) -> None: ...

    def recall(self, progress: Progress) -> None:
        for trial in progress.trials.values():
            self.assignments[trial.number] = trial.assignment
            for result in trial.results:
                self.judge(trial.number, {**trial.facts, **result})


def quiet_optuna(search: str) -> Any:
    """Optuna, for the search of that name, without its log of every trial."""
    optuna = optional("optuna", f"search {search}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def tpe(optuna: Any, seed: int, startup: int, multivariate: bool) -> Any:
    """Optuna's sampler for spaces with conditions and several trials at a time."""
    with warnings.catch_warnings():  # options that Optuna may yet change
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=startup,
            multivariate=multivariate,
            group=multivariate,
            constant_liar=True,
            seed=seed % 2**32,
        )


def suggesting(asked: Any) -> Callable[[str, Domain], Any]:
    """Asks one of Optuna's trials for the value of a parameter."""

    def suggest(name: str, domain: Domain) -> Any:
        if domain.choice is not None:
            return domain.labelled(asked.suggest_categorical(name, domain.labels))
        if domain.finite is not None:
            return asked.suggest_int(name, domain.finite[0], domain.finite[-1], step=domain.step)
        return asked.suggest_float(name, *domain.ends, log=domain.loguniform is not None)

    return suggest


def described(optuna: Any, space: Space, assignment: Assignment) -> dict[str, Any]:
    """An assignment as ``params`` and ``distributions`` of one of Optuna's trials."""
    kinds, params, distributions = optuna.distributions, {}, {}
    for name, value in assignment.items():
        domain = space.parameters[name]
        params[name] = domain.label(value) if domain.choice is not None else value
        if domain.choice is not None:
            distributions[name] = kinds.CategoricalDistribution(domain.labels)
        elif domain.finite is not None:
            distributions[name] = kinds.IntDistribution(domain.finite[0], domain.finite[-1], step=domain.step)
        else:
            distributions[name] = kinds.FloatDistribution(*domain.ends, log=domain.loguniform is not None)
    return {"params": params, "distributions": distributions}


def optional(module: str, what: str) -> Any:
    """An imported library of the extra ``sweep``; raises ``UserError`` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {module} ({error}): pip install 'metagen[sweep]'") from None
