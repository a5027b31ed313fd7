"""What a training session keeps: checkpoints, in its folder and in its store, and results that were not finite."""

from __future__ import annotations

import time
from pathlib import Path

from launch.training.console import Console
from launch.training.journal import Journal
from launch.training.stopping import unbroken
from metagen import checkpoint, quarantine
from metagen.errors import UserError
from metagen.learner import Learner
from metagen.records import Quarantined
from metagen.state import MetaState
from metagen.store import Store

LAST_WAITS = (2.0, 5.0, 10.0)
"""Seconds after which the last checkpoint is stored again where the store refused it: no other one will be."""


class Keeper:
    """Keeps what the run in ``folder`` comes to, and says so on the console and in the log."""

    def __init__(
        self, learner: Learner, folder: Path, store: Store | None, console: Console, journal: Journal, resume: str
    ) -> None:
        self.config, self.layout = learner.config, learner.layout
        self.folder, self.store, self.console, self.journal, self.resume = folder, store, console, journal, resume
        self.saved = learner.state.step
        """Steps of the newest checkpoint."""

    def save(self, state: MetaState, name: str | None = None) -> str:
        """Write a checkpoint into the folder; gives its name, by default that of its step."""
        name = name or checkpoint.step_name(state.step)
        with unbroken():
            checkpoint.save_checkpoint(self.folder / "checkpoints" / name, self.config, self.layout, state)
        self.saved = state.step
        self.journal.write("checkpoint", checkpoint=name, step=self.saved)
        return name

    def put(self, name: str, last: bool = False) -> None:
        """Store a checkpoint that is saved. A store that refuses is tried again by the next checkpoint, and by the
        ``last`` one itself, which raises ``UserError`` in the end."""
        if self.store is None:
            return
        path = self.folder / "checkpoints" / name
        for wait in (*(LAST_WAITS if last else ()), None):
            try:
                self.store.publish(path)
                self.store.prune(self.config.log.keep)
                return
            except UserError as error:
                self.journal.write("not stored", checkpoint=name, error=str(error))
                if wait is not None:
                    self.console.line(f"not stored, tried again in {wait:g} s: {error}")
                    time.sleep(wait)
                elif last:  # the run is whole in its folder, but not where it was asked to be
                    unstored = f"{path} is written, but not stored: {error}"
                    raise UserError(f"{unstored}; then '{self.resume}'") from None
                else:
                    self.console.line(f"not stored, the next checkpoint will try again: {error}")

    def set_aside(self, broken: tuple[Quarantined, ...]) -> None:
        """Put results that were not finite where ``metagen replay`` finds them."""
        for one in broken:
            kept = quarantine.keep(self.folder, one)
            name, step = one.item.work_id, one.item.step + 1
            self.journal.write("quarantined", work_id=name, step=step, where=one.where, kept=kept)
            if kept:
                self.console.line(f"quarantined: 'metagen replay {self.folder} {name}' does it again")
