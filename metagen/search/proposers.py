"""Who proposes what to try: at random, over a grid, by Optuna. Each is rebuilt from what the ledger holds."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from metagen.errors import UserError
from metagen.search.config import SweepConfig
from metagen.search.ledger import ENDED, Progress, Tried
from metagen.search.space import Assignment, Domain, Space
from metagen.seeding import numpy_generator, seed_for
from metagen.strict import Strict


class Proposer(Protocol):
    """Proposes assignments and hears what became of them. Trials are known by their number."""

    def propose(self, attempt: int) -> Assignment | None:
        """What to try in the ``attempt``-th proposal of the sweep, refused ones counted; None if all was proposed."""
        ...

    def take(self, number: int) -> None:
        """The last proposal is trial ``number``."""
        ...

    def refuse(self) -> None:
        """The last proposal cannot be."""
        ...

    def judge(self, number: int, result: dict[str, Any]) -> None:
        """A judgement came in."""
        ...

    def end(self, trial: Tried) -> None:
        """A trial ended."""
        ...

    def recall(self, progress: Progress) -> None:
        """Know again all that an earlier session has heard."""
        ...


class Random:
    """Each proposal drawn from the space by its own seed."""

    def __init__(self, sweep: SweepConfig, space: Space, options: None) -> None:
        self.sweep, self.space = sweep, space

    def propose(self, attempt: int) -> Assignment | None:
        return self.space.draw(numpy_generator(self.sweep.seed, "proposal", attempt))

    def take(self, number: int) -> None: ...
    def refuse(self) -> None: ...
    def judge(self, number: int, result: dict[str, Any]) -> None: ...
    def end(self, trial: Tried) -> None: ...
    def recall(self, progress: Progress) -> None: ...


class Grid(Random):
    """All assignments in order."""

    def __init__(self, sweep: SweepConfig, space: Space, options: None) -> None:
        super().__init__(sweep, space, options)
        next(space.grid())  # a space without end is refused here

    def propose(self, attempt: int) -> Assignment | None:
        return next(itertools.islice(self.space.grid(), attempt, None), None)


class TpeOptions(Strict):
    startup: int = 8
    """Trials at random before the model is used."""
    multivariate: bool = True
    """Whether parameters are modelled together."""


class Nsga2Options(Strict):
    population: int = 16


class Optuna:
    """Optuna's samplers, asked and told: https://optuna.readthedocs.io"""

    def __init__(self, sweep: SweepConfig, space: Space, sampler: Callable[[int], Any]) -> None:
        self.sweep, self.space, self._sampler = sweep, space, sampler
        self.optuna = optional("optuna", "search " + sweep.search.name)
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.study = self._study(seed_for(sweep.seed, "sampler"))
        self.asked: Any = None
        self.trials: dict[int, Any] = {}

    def _study(self, seed: int) -> Any:
        return self.optuna.create_study(directions=["minimize"] * len(self.sweep.objectives), sampler=self._made(seed))

    def _made(self, seed: int) -> Any:
        with warnings.catch_warnings():  # options of samplers that Optuna may yet change
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return self._sampler(seed % 2**32)

    def propose(self, attempt: int) -> Assignment | None:
        self.asked = self.study.ask()
        return self.space.assign(self._suggest)

    def _suggest(self, name: str, domain: Domain) -> Any:
        if domain.choice is not None:
            return domain.labelled(self.asked.suggest_categorical(name, domain.labels))
        if domain.range is not None:
            low, high = domain.range
            return self.asked.suggest_int(name, low, low + (high - low) // domain.step * domain.step, step=domain.step)
        low_high = domain.uniform or domain.loguniform
        assert low_high is not None
        return self.asked.suggest_float(name, *low_high, log=domain.loguniform is not None)

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
                params={name: self._external(name, value) for name, value in trial.assignment.items()},
                distributions={name: self._distribution(name) for name in trial.assignment},
                intermediate_values={r["rung"]: r[self.sweep.objectives[0]] for r in trial.results}
                if len(self.sweep.objectives) == 1 and state != self.optuna.trial.TrialState.FAIL
                else {},
            )
            self.study.add_trial(created)
            if not ended:
                stored = self.study.get_trials(deepcopy=False)[-1]
                self.trials[trial.number] = self.optuna.trial.Trial(self.study, stored._trial_id)
        # Other draws than those that the sessions before began with.
        self.study.sampler = self._made(seed_for(self.sweep.seed, "sampler", progress.attempts))

    def _external(self, name: str, value: Any) -> Any:
        domain = self.space.parameters[name]
        return domain.label(value) if domain.choice is not None else value

    def _distribution(self, name: str) -> Any:
        domain, kinds = self.space.parameters[name], self.optuna.distributions
        if domain.choice is not None:
            return kinds.CategoricalDistribution(domain.labels)
        if domain.range is not None:
            low, high = domain.range
            return kinds.IntDistribution(low, low + (high - low) // domain.step * domain.step, step=domain.step)
        return kinds.FloatDistribution(*(domain.uniform or domain.loguniform), log=domain.loguniform is not None)


class Tpe(Optuna):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), several objectives too (Ozaki et al. 2020)."""

    Options = TpeOptions

    def __init__(self, sweep: SweepConfig, space: Space, options: TpeOptions) -> None:
        def sampler(seed: int) -> Any:
            return self.optuna.samplers.TPESampler(
                n_startup_trials=options.startup,
                multivariate=options.multivariate,
                group=options.multivariate,
                constant_liar=True,  # several trials run at a time
                seed=seed,
            )

        super().__init__(sweep, space, sampler)


class Nsga2(Optuna):
    """NSGA-II (Deb et al. 2002): a front of several objectives."""

    Options = Nsga2Options

    def __init__(self, sweep: SweepConfig, space: Space, options: Nsga2Options) -> None:
        def sampler(seed: int) -> Any:
            return self.optuna.samplers.NSGAIISampler(population_size=options.population, seed=seed)

        super().__init__(sweep, space, sampler)


def optional(module: str, what: str) -> Any:
    """An imported library of the extra ``sweep``; raises ``UserError`` with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {module} ({error}): pip install 'metagen[sweep]'") from None


PROPOSERS: dict[str, Any] = {"random": Random, "grid": Grid, "tpe": Tpe, "nsga2": Nsga2}
