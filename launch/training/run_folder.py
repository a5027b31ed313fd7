"""A run's folder: its config, its checkpoints, its TensorBoard events, its pictures."""

from __future__ import annotations

import os
import re
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from launch.sweeps.folder import of_trial
from metagen import lock
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.store import Store
from metagen.values import parse_yaml, read_yaml
from metagen.wording import some

CONFIG = "config.yaml"
BEFORE = re.compile(r"\..*|checkpoints|logs?(\..*)?|.*\.(log|out|err)(\.\d+)?|stdout|stderr")
"""Names that a folder may hold before there is a run in it: what a start that failed left, and logs of it."""


def default_folder(config: RunConfig) -> Path:
    """``runs/NAME``, or with the time of day if there is one of that name already."""
    folder = Path("runs") / config.name
    return folder if not folder.exists() else folder.with_name(f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")


def create(folder: Path, config: RunConfig) -> None:
    """Make a run folder with its config. Raises ``UserError`` if it holds a run or cannot be written."""
    check_free(folder)
    partial = folder / f".{CONFIG}.partial"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(config.to_yaml())
        partial.replace(folder / CONFIG)
    except OSError as error:
        with suppress(OSError):  # leave nothing behind
            partial.unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another --run-dir") from None


def create_copy(url: str) -> Path:
    """The working copy of the run at a store's ``url``: ``runs/NAME``, made with its config if it is not there.

    Raises ``UserError`` if the store holds no run, or the folder is of another.
    """
    folder = Path("runs") / url.rstrip("/").rpartition("/")[2]
    if (folder / CONFIG).is_file():
        if read_config(folder).log.store != url.rstrip("/"):
            raise UserError(f"{folder} holds another run than {url}: resume from another folder than this")
        return folder
    text = Store(url).read(CONFIG)
    if text is None:
        raise UserError(f"{url}: no run there (no {CONFIG}): give the URL that 'metagen train' stored it at")
    config = RunConfig.parse(parse_yaml(text, url))
    create(folder, config.model_copy(update={"log": config.log.model_copy(update={"store": url.rstrip("/")})}))
    return folder


def open_store(config: RunConfig) -> Store | None:
    """The store that a config names, checked; None if it names none."""
    return Store(config.log.store) if config.log.store else None


def check_free(folder: Path) -> None:
    """Raise ``UserError`` unless a new run can be put at ``folder``; nothing is written."""
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} already holds a run: continue it with 'metagen resume {folder}' or choose another")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --run-dir")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written (no permission in {parent}): choose another --run-dir")
    try:
        others = sorted(path.name for path in folder.iterdir() if not BEFORE.fullmatch(path.name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}): choose another --run-dir") from None
    if others:
        raise UserError(f"{folder} holds no run but other things, {some(others, 3)}: choose a new or an empty folder")


def held(folder: Path) -> AbstractContextManager[None]:
    """Train the run in ``folder`` alone while the block runs; raises ``UserError`` if another process does."""
    if (sweep := of_trial(folder)) and lock.is_held(sweep):
        raise UserError(f"{folder} is a trial of a sweep that runs: wait for it, or 'metagen sweep stop {sweep}' first")
    return lock.held(folder, "trained", f"watch it with 'metagen top {folder}', or stop it first")


def read_config(folder: Path) -> RunConfig:
    """The config of the run in ``folder``; raises ``UserError`` if there is none."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a run folder (no {CONFIG}): give the folder that 'metagen train' wrote")
    return RunConfig.parse(read_yaml(folder / CONFIG))


def place(folder: Path, name: str) -> Path | None:
    """Where the file ``name`` of a run brought from elsewhere goes in ``folder``; None if it leads out of it."""
    path = folder / name
    inside = ".." not in path.parts[len(folder.parts) :] and path.resolve().is_relative_to(folder.resolve())
    return path if inside else None


def half_written(path: Path) -> bool:
    """Whether a path within a run is, or lies in, what is not whole yet: its name begins with a dot."""
    return any(part.startswith(".") for part in path.parts)
