"""A sweep's folder, and how its config comes together: preset or file, with the base run that it names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from launch.preset import load_config
from metagen.errors import UserError, nearest
from metagen.names import checked, name_of
from metagen.search.config import SweepConfig
from metagen.search.ledger import LEDGER, TRIALS, Ledger, Progress
from metagen.values import override, put, read_yaml, to_yaml

CONFIG = "sweep.yaml"


def presets() -> dict[str, Path]:
    """The packaged sweeps by name."""
    with resources.as_file(resources.files("launch.sweeps") / "presets") as folder:
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_sweep(source: str, assignments: Sequence[str], commands: Sequence[str] = ()) -> SweepConfig:
    """The sweep that a preset's name or a YAML file's path stands for, with changes applied.

    ``base`` is the name of a preset, a path to a run's config (from where the sweep's file lies), or the config
    itself; ``set`` changes keys of it.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        values, home = read_yaml(path), path.parent
    elif source in presets():
        values, home = read_yaml(presets()[source]), Path()
    else:
        # A command of another name than it sounds like would be no help: only one that is misspelt is offered.
        meant = get_close_matches(source, commands, n=1, cutoff=0.7)
        hint = f"; did you mean the command 'metagen sweep {meant[0]}'?" if meant else nearest(source, presets())
        raise UserError(f"unknown preset of a sweep '{source}'{hint} (or give a .yaml file)")
    values.setdefault("name", name_of(path.stem))
    values = override(values, [a for a in assignments if not a.startswith("base.")])
    base: Any = values.get("base", "quickstart")
    if isinstance(base, str):
        base = str(home / base) if base.endswith((".yaml", ".yml")) and not Path(base).is_absolute() else base
        base = load_config(base, (), None, None).model_dump(mode="json")
    if not isinstance(base, dict):
        raise UserError("base: give a preset's name, a path to a .yaml file, or a run's config")
    changes = values.pop("set", {})
    if not isinstance(changes, dict):
        raise UserError("set: give keys of the base run and their values, such as episode.shots: 3")
    for key, value in changes.items():
        put(base, key, value, f"set.{key}")
    values["base"] = override(base, [a.removeprefix("base.") for a in assignments if a.startswith("base.")])
    sweep = SweepConfig.parse(values)
    checked(sweep.name)
    return sweep


def create(folder: Path, sweep: SweepConfig) -> None:
    """Make a sweep's folder with its config. Raises ``UserError`` if it is taken or cannot be written."""
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, sweep)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another --out") from None


def write(folder: Path, sweep: SweepConfig) -> None:
    """Write a sweep's config, whole or not at all."""
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(to_yaml(sweep.model_dump(mode="json")))
    partial.replace(folder / CONFIG)


def check_free(folder: Path) -> None:
    """Raise ``UserError`` unless a new sweep can be put at ``folder``; nothing is written."""
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} already holds a sweep: 'metagen sweep resume {folder}' or choose another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: choose another --out")


def read(folder: Path) -> tuple[SweepConfig, Progress]:
    """A sweep and what its ledger tells; raises ``UserError`` if ``folder`` holds none."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a sweep's folder (no {CONFIG}): give the folder that 'metagen sweep' wrote")
    return SweepConfig.parse(read_yaml(folder / CONFIG)), Ledger(folder).read()[0]


def begun(folder: Path) -> None:
    """Raise ``UserError`` if the sweep in ``folder`` has tried nothing yet."""
    if not (folder / LEDGER).is_file():
        raise UserError(f"{folder}: nothing was tried yet: 'metagen sweep resume {folder}' begins")


def of_trial(folder: Path) -> Path | None:
    """The sweep that the run in ``folder`` is a trial of; None if it is of none."""
    trials = folder.absolute().parent
    return trials.parent if trials.name == TRIALS and (trials.parent / LEDGER).is_file() else None
