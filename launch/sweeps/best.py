"""``metagen sweep best``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from launch.output import write_text
from launch.sweeps import folder as folders
from launch.sweeps.names import shown
from metagen.errors import UserError
from metagen.search.limits import whole
from metagen.search.trial import folder_of


def show_best(folder: Path, number: int | None, export: Path | None) -> None:
    """Print the best trial, or the one asked for, and write its config."""
    sweep, progress = folders.read(folder)
    ranked = progress.ranked(sweep.objectives[0])
    if number is not None and number not in progress.trials:
        raise UserError(f"--trial {number}: no such trial, there are {len(progress.trials)}")
    if number is None and not ranked:
        raise UserError(f"{folder}: no trial was judged yet: 'metagen sweep status {folder}' says how far it is")
    trial = progress.trials[number] if number is not None else ranked[0]
    console = Console(highlight=False, markup=False, emoji=False)
    config = whole(sweep, sweep.make_space(), trial.assignment)
    values = ", ".join(f"{name} {trial.objective(name):.6g}" for name in sweep.objectives)
    console.print(
        f"trial {trial.number}: {trial.status} at step {trial.step} of {config.steps}, {values}", soft_wrap=True
    )
    for name, value in trial.assignment.items():
        console.print(f"  {name}: {shown(value)}", soft_wrap=True)
    console.print(f"its weights: {folder_of(folder, trial.number)}", soft_wrap=True)
    if export is None:
        return
    config = config.model_copy(update={"name": f"{sweep.name}-{trial.number:04d}"})
    write_text(export, config.to_yaml(), "--export")
    console.print(f"wrote {export}: 'metagen train {export}' trains it anew", soft_wrap=True)
