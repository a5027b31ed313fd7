"""Proposers as a searcher of Ray Tune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from metagen.errors import UserError
from metagen.search.config import SweepConfig
from metagen.search.ledger import Progress, Tried
from metagen.search.limits import Refused, admitted
from metagen.search.proposers import proposer_of
from metagen.search.space import Space

NUMBER, BEGIN, DONOR, FACTS = "_trial", "_begin", "_donor", "_facts"
"""What a Tune trial's config holds beside its assignment: number, checkpoint to go on from, whose weights to take, and
what is known of its network."""
MOST_REFUSED = 500
"""Proposals in a row that may be refused before the sweep gives up."""


class Proposals(Searcher):
    """Asks a proposer, refuses what cannot be, and numbers what can. Trials that an earlier session left come first."""

    def __init__(self, sweep: SweepConfig, space: Space, progress: Progress, record: Callable[..., None]) -> None:
        super().__init__(metric=sweep.objectives[0], mode="min")
        self.sweep, self.space, self.progress, self.record = sweep, space, progress, record
        self.proposer = proposer_of(sweep, space)
        if progress.trials:
            self.proposer.recall(progress)
        self.left = [trial.number for trial in progress.unfinished]
        self.running: set[str] = set()
        self.failure: UserError | None = None
        self.exhausted = False

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
        self.running.add(trial_id)
        begin = trial.checkpoint
        return {**trial.assignment, NUMBER: trial.number, BEGIN: begin, DONOR: trial.donor, FACTS: trial.facts}

    def _next(self, number: int) -> bool:
        """Record the next proposal that can be as trial ``number``; whether there was one."""
        for _ in range(MOST_REFUSED):
            attempt = self.progress.attempts
            assignment = self.proposer.propose(attempt)
            if assignment is None:
                self.exhausted = True
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
            return number in self.progress.trials  # not where the sweep's folder is gone: then it ends
        reason, count = self.progress.reasons().most_common(1)[0]
        self.failure = UserError(
            f"{MOST_REFUSED} proposals in a row were refused, {count} of all with: {reason}: "
            "widen the limits or the space"
        )
        return False

    def judged(self, number: int, result: dict[str, Any]) -> None:
        """A judgement stands in the ledger."""
        self.proposer.judge(number, {**self.progress.trials[number].facts, **result})

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
