"""The sweep in TensorBoard: every trial a run with its hyperparameters, for the tab HParams."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from launch.sweeps.names import short_names, shown
from metagen.search.config import SweepConfig
from metagen.search.ledger import Progress

BOARD = "tensorboard"


class HParams:
    """Writes what the ledger tells; use as a context manager."""

    def __init__(self, folder: Path, sweep: SweepConfig) -> None:
        self.folder, self.sweep = folder / BOARD, sweep
        self.names = short_names(sweep.space)
        self.writers: dict[int, Any] = {}

    def __enter__(self) -> HParams:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for writer in self.writers.values():
            writer.close()

    def write(self, event: str, values: dict[str, Any], progress: Progress) -> None:
        """Take one event in."""
        if event == "result":
            writer = self._writer(values["trial"], progress)
            for name in ("loss", "loss_before", "train_loss", "latency"):
                if name in values:
                    writer.add_scalar(name, values[name], values["step"])
        elif event in ("complete", "stopped", "failed", "refused_trial") and values["trial"] in self.writers:
            self.writers.pop(values["trial"]).close()

    def _writer(self, number: int, progress: Progress) -> Any:
        if number not in self.writers:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            trial = progress.trials[number]
            writer: Any = SummaryWriter(str(self.folder / f"{number:04d}"), purge_step=trial.step or None)
            chosen = {
                short: trial.assignment[name]
                if isinstance(trial.assignment.get(name), bool | int | float)
                else shown(trial.assignment[name])
                if name in trial.assignment
                else "-"
                for name, short in self.names.items()
            }
            facts = {name: trial.facts[name] for name in ("parameters", "flops")}
            for summary in hparams({**chosen, **facts}, {"loss": 0.0}):
                writer.file_writer.add_summary(summary)
            self.writers[number] = writer
        return self.writers[number]
