"""Proposers as a searcher of Ray Tune, and BOHB's, which Tune brings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from metagen.errors import UserError
from metagen.registry import find, options_of
from metagen.search.config import SweepConfig
from metagen.search.ledger import ENDED, Progress, Tried
from metagen.search.limits import Refused, admitted
from metagen.search.proposers import PROPOSERS, Proposer, optional
from metagen.search.space import Assignment, Space
from metagen.seeding import seed_for
from metagen.strict import Strict

NUMBER, BEGIN, DONOR, FACTS = "_trial", "_begin", "_donor", "_facts"
"""What a Tune trial's config holds beside its assignment: number, checkpoint to go on from, whose weights to take, and
what is known of its network."""
MOST_REFUSED = 500
"""Proposals in a row that may be refused before the sweep gives up."""


class BohbOptions(Strict):
    least: int | None = None
    """Judgements of a rung before its model is used; None for one more than parameters."""
    random: float = 1 / 3
    """Share of proposals at random."""


class Bohb:
    """BOHB's model of densities (Falkner et al. 2018), through Tune's TuneBOHB; for the scheduler ``hyperband``."""

    Options = BohbOptions

    def __init__(self, sweep: SweepConfig, space: Space, options: BohbOptions) -> None:
        self.space, self.seed = space, sweep.seed
        self.kinds = optional("ConfigSpace", "search bohb")
        optional("hpbandster.optimizers.config_generators.bohb", "search bohb")
        from ray.tune.search.bohb import TuneBOHB

        self.tune = TuneBOHB(
            space=self._space(),
            metric=sweep.objectives[0],
            mode="min",
            seed=seed_for(sweep.seed, "sampler") % 2**31,
            bohb_config={"min_points_in_model": options.least, "random_fraction": options.random},
        )
        self.proposed: dict[str, Any] = {}
        self.drawn: dict[int, dict[str, Any]] = {}

    def _space(self) -> Any:
        space, kinds = self.kinds.ConfigurationSpace(), self.kinds
        for name, domain in self.space.parameters.items():
            if domain.finite is not None:  # by place: numbers of a range are as good as names
                places = [str(place) for place in range(len(domain.finite))]
                space.add(kinds.CategoricalHyperparameter(name, choices=places))
            else:
                low, high = domain.uniform or domain.loguniform or (0.0, 1.0)
                log = domain.loguniform is not None
                space.add(kinds.UniformFloatHyperparameter(name, lower=low, upper=high, log=log))
        return space

    def propose(self, attempt: int) -> Assignment | None:
        with _quiet(seed_for(self.seed, "bohb", attempt)):
            self.proposed = self.tune.suggest("proposal")
        values = {}
        for name, domain in self.space.parameters.items():
            value = self.proposed[name]
            values[name] = domain.finite[int(value)] if domain.finite is not None else float(value)
        return self.space.restricted(values)

    def take(self, number: int) -> None:
        self.tune.trial_to_params[str(number)] = self.tune.trial_to_params.pop("proposal")

    def refuse(self) -> None:
        self.tune.trial_to_params.pop("proposal", None)

    def judge(self, number: int, result: dict[str, Any]) -> None:
        if "budget" in result:
            with _quiet(seed_for(self.seed, "model", number)):
                told = {**result, "hyperband_info": {"budget": result["budget"]}}
                self.tune.on_trial_result(str(number), told)

    def end(self, trial: Tried) -> None:
        self.tune.trial_to_params.pop(str(trial.number), None)

    def recall(self, progress: Progress) -> None:
        for trial in progress.trials.values():
            drawn = {}
            for name, domain in self.space.parameters.items():
                # Conditions are not part of BOHB's space: an inactive parameter is known again at its first value.
                finite = domain.finite
                if finite is not None:
                    drawn[name] = str(list(finite).index(trial.assignment[name])) if name in trial.assignment else "0"
                else:
                    low, _ = domain.uniform or domain.loguniform or (0.0, 1.0)
                    drawn[name] = trial.assignment.get(name, low)
            self.tune.trial_to_params[str(trial.number)] = drawn
            for result in trial.results:
                self.judge(trial.number, result)
            if trial.status in ENDED:
                self.end(trial)


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """hpbandster draws from numpy's global generator: lend it a state, and hear nothing of what it has outlived."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


SEARCHERS: dict[str, Any] = {**PROPOSERS, "bohb": Bohb}


def proposer_of(sweep: SweepConfig, space: Space) -> Proposer:
    """The proposer that a sweep names; raises ``UserError`` for wrong options or a library that is not there."""
    entry = find("search", sweep.search.name, SEARCHERS)
    proposer: Proposer = entry(sweep, space, options_of("search", entry, sweep.search.options))
    return proposer


class Proposals(Searcher):
    """Asks a proposer, refuses what cannot be, and numbers what can. Trials that an earlier session left come first."""

    def __init__(self, sweep: SweepConfig, space: Space, progress: Progress, record: Callable[..., None]) -> None:
        super().__init__(metric=sweep.objectives[0], mode="min")
        self.sweep, self.space, self.progress, self.record = sweep, space, progress, record
        self.proposer = proposer_of(sweep, space)
        if progress.trials:
            self.proposer.recall(progress)
        self.left = [trial.number for trial in progress.unfinished]
        self.numbers: dict[str, int] = {}
        self.running: set[str] = set()
        self.budgets: dict[int, int] = {}
        self.failure: UserError | None = None

    def suggest(self, trial_id: str) -> Any:
        if self.sweep.concurrent is not None and len(self.running) >= self.sweep.concurrent:
            return None
        if self.left:
            trial = self.progress.trials[self.left.pop(0)]
            return self._begun(trial_id, trial)
        number = len(self.progress.trials)
        if number >= self.sweep.trials or not self._next(number):
            return Searcher.FINISHED
        return self._begun(trial_id, self.progress.trials[number])

    def _begun(self, trial_id: str, trial: Tried) -> dict[str, Any]:
        self.numbers[trial_id] = trial.number
        self.running.add(trial_id)
        begin = trial.checkpoint
        return {**trial.assignment, NUMBER: trial.number, BEGIN: begin, DONOR: trial.donor, FACTS: trial.facts}

    def _next(self, number: int) -> bool:
        """Record the next proposal that can be as trial ``number``; whether there was one."""
        for _ in range(MOST_REFUSED):
            attempt = self.progress.attempts
            assignment = self.proposer.propose(attempt)
            if assignment is None:
                return False
            try:
                _, facts = admitted(self.sweep, self.space, assignment)
            except Refused as refused:
                self.proposer.refuse()
                self.record("refused", attempt=attempt, assignment=assignment, reason=str(refused))
                continue
            donor = None
            if self.sweep.inherit and (ranked := self.progress.ranked()):
                donor = ranked[0].checkpoint
            self.proposer.take(number)
            self.record(
                "proposed", trial=number, attempt=attempt, assignment=assignment, facts=facts.model_dump(), donor=donor
            )
            return True
        reason, count = self.progress.reasons().most_common(1)[0]
        self.failure = UserError(
            f"{MOST_REFUSED} proposals in a row were refused, {count} of all with: {reason}: "
            "widen the limits or the space"
        )
        return False

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        # Only here does Tune say which of HyperBand's rungs a result belongs to.
        if "budget" in result.get("hyperband_info", {}):
            self.budgets[self.numbers[trial_id]] = result["hyperband_info"]["budget"]

    def judged(self, number: int, result: dict[str, Any]) -> dict[str, Any]:
        """A result is to go into the ledger: the proposer hears of it. Gives it with HyperBand's budget."""
        if (budget := self.budgets.pop(number, None)) is not None:
            result = {**result, "budget": budget}
        self.proposer.judge(number, {**self.progress.trials[number].facts, **result})
        return result

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.discard(trial_id)

    def ended(self, number: int) -> None:
        """A trial's end stands in the ledger."""
        self.proposer.end(self.progress.trials[number])

    def on_pause(self, trial_id: str) -> None:
        """HyperBand paused a trial: another may run."""
        self.running.discard(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        self.running.add(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the only memory: Tune is given none to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """See ``save``."""
