"""Runs in an object store: their checkpoints at ``s3://``, ``gs://`` or ``abfs://``, laid out as in a run folder.

An object is there as a whole or not at all, so a checkpoint is published by writing its files and its manifest last,
and deleted by deleting its manifest first: what has no manifest is no checkpoint. Hashes in the manifest find the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from metagen.checkpoint import BEST, FINAL, MANIFEST, WEIGHTS, best_of, load_checkpoint, oldest_first, publishing
from metagen.errors import UserError
from metagen.files import Files, parts_of


class Store(Files):
    """The run at a URL. Raises ``UserError`` for what the store refuses, with its own words."""

    def publish(self, folder: Path) -> None:
        """Copy the local checkpoint ``folder`` to ``checkpoints/NAME``, its manifest last."""
        place = f"checkpoints/{folder.name}"
        self.delete(f"{place}/{MANIFEST}")  # one of that name: gone before its weights change
        for name in (WEIGHTS, MANIFEST):
            self.write(f"{place}/{name}", (folder / name).read_bytes())

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that have a manifest, oldest first; ``final`` is the last if it is there."""
        found = (name.split("/") for name in self.names("checkpoints"))
        return oldest_first(parts[1] for parts in found if len(parts) == 3 and parts[2] == MANIFEST)

    def best(self) -> str | None:
        """The best of its checkpoints, as ``checkpoint.best_of`` says; None if none has a score."""
        return best_of({name: self.read(f"checkpoints/{name}/{MANIFEST}") or b"" for name in self.checkpoints()})

    def prune(self, keep: int) -> None:
        """Delete all step checkpoints but the ``keep`` newest and the best."""
        best = self.best()
        steps = [name for name in self.checkpoints() if name != FINAL]
        for name in steps[: max(len(steps) - keep, 0)]:
            if name != best:
                self.delete(f"checkpoints/{name}/{MANIFEST}")
                self.delete(f"checkpoints/{name}/{WEIGHTS}")

    def pull(self, name: str, run: Path) -> Path:
        """Copy checkpoint ``name`` into the local run folder ``run``; whether it is whole, loading it tells."""
        folder = run / "checkpoints" / name
        with publishing(folder) as partial:
            for file in (WEIGHTS, MANIFEST):
                data = self.read(f"checkpoints/{name}/{file}")
                if data is None:
                    raise UserError(f"{self.url}/checkpoints/{name}: {file} is missing")
                (partial / file).write_bytes(data)
        return folder


def bring_newest(store: Store, run: Path, skipped: Callable[[str], None]) -> Path | None:
    """Have the newest whole checkpoint of ``store`` in the run folder ``run`` too; None if there is none.

    Damaged ones are told to ``skipped`` and left out; one that is in ``run`` already and whole is not copied again.
    """
    for name in reversed(store.checkpoints()):
        folder = run / "checkpoints" / name
        try:
            if not _whole(folder):
                store.pull(name, run)
            load_checkpoint(folder)
            return folder
        except UserError as error:
            shutil.rmtree(folder, ignore_errors=True)
            skipped(f"skipped: {store.url}: {error}")
    return None


def fetch(url: str, into: Path, skipped: Callable[[str], None]) -> Path:
    """A local copy, below ``into``, of the checkpoint at ``url``: of a run (the newest whole one), or one by name.

    Names are those in ``RUN/checkpoints``, or ``best``. Raises ``UserError`` if there is none.
    """
    run_url, _, name = url.rstrip("/").partition("/checkpoints/")
    store = Store(run_url)
    run = into / Path(*parts_of(run_url))
    if not name:
        if found := bring_newest(store, run, skipped):
            return found
        raise UserError(f"{url}: no whole checkpoint there; give the URL of a run or of RUN/checkpoints/NAME")
    if name == BEST:
        name = store.best() or BEST
    if name not in (known := store.checkpoints()):
        raise UserError(f"{url}: no such checkpoint; there are: {', '.join(known) or 'none'}")
    return store.pull(name, run)


def _whole(folder: Path) -> bool:
    try:
        load_checkpoint(folder)
    except UserError:
        return False
    return True
