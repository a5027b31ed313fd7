"""Results that were not finite, kept with all that is needed to do their work again: item, version, vectors.

A result depends on its item and snapshot alone, so replaying one tells a loss that overflows from a fault of a
machine: the first comes again, the second does not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metagen import work
from metagen.checkpoint import publishing
from metagen.errors import UserError, nearest
from metagen.flat import Layout
from metagen.learner import nonfinite_parts
from metagen.records import Quarantined, Snapshot, WorkItem, packed, unpacked

FOLDER, ITEM, VECTORS = "quarantine", "item.json", "snapshot.safetensors"
KEPT = 32
"""Results kept a run: each holds a copy of theta, and the first ones tell the most."""


def keep(run: Path, quarantined: Quarantined) -> bool:
    """Write one to ``RUN/quarantine/WORK_ID``, atomically; False if ``KEPT`` are there already.

    Raises ``UserError`` if the disk refuses.
    """
    item, snapshot = quarantined.item, quarantined.snapshot
    folder = run / FOLDER / item.work_id
    if len(kept(run)) >= KEPT and not folder.exists():
        return False
    values = {"item": asdict(item), "where": quarantined.where, "worker": quarantined.worker}
    with publishing(folder) as partial:
        vectors = {"theta": unpacked(snapshot.theta), "policy": unpacked(snapshot.policy)}
        save_file(vectors, partial / VECTORS)
        (partial / ITEM).write_text(json.dumps(values, indent=1))
    return True


def kept(run: Path) -> list[str]:
    """The work_ids in a run's quarantine."""
    return sorted(path.parent.name for path in (run / FOLDER).glob(f"[!.]*/{ITEM}"))


def load(run: Path, work_id: str, dtype: torch.dtype) -> Quarantined:
    """Read one back, its theta in the ``dtype`` that it travelled in; raises ``UserError`` if it is not there."""
    known = kept(run)
    if work_id not in known:
        hint = nearest(work_id, known) if known else ": its quarantine is empty"
        raise UserError(f"{run}: no work '{work_id}' in quarantine{hint}")
    folder = run / FOLDER / work_id
    try:
        values = json.loads((folder / ITEM).read_text())
        item, vectors = WorkItem(**values["item"]), load_file(folder / VECTORS)
        snapshot = Snapshot(item.version, packed(vectors["theta"], dtype), packed(vectors["policy"], torch.float32))
        return Quarantined(item, snapshot, tuple(values["where"]), str(values["worker"]))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}: {error.filename})") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged ({error}): nothing can be replayed from it") from None


@dataclass(frozen=True)
class Replay:
    """What doing the work again gave."""

    before: Quarantined
    where: tuple[str, ...]
    """What is not finite now, named as in ``Quarantined``."""
    layers: dict[str, int]
    """Layers whose part of the meta-gradient is not finite, with how many numbers of it."""
    theta: dict[str, int]
    """The same of the parameters that the work began with; empty unless the learner itself was broken."""
    metrics: dict[str, float]

    @property
    def again(self) -> bool:
        return bool(self.where)


def replay(parts: work.Parts, quarantined: Quarantined) -> Replay:
    """Do the work again, in this process."""
    result = work.run(parts, quarantined.item, quarantined.snapshot, "replay")
    layout = parts.problem.network.layout
    return Replay(
        quarantined,
        nonfinite_parts(result),
        _layers(layout, unpacked(result.gradient)),
        _layers(layout, unpacked(quarantined.snapshot.theta)),
        result.metrics,
    )


def _layers(layout: Layout, vector: torch.Tensor) -> dict[str, int]:
    """How many numbers of ``vector [P]`` are not finite, by layer; the sound ones are left out."""
    if not len(vector):  # a result of probes has no gradient of its own
        return {}
    bad = (~vector.isfinite()).split(list(layout.layer_sizes))
    return {name: int(part.sum()) for name, part in zip(layout.layers, bad, strict=True) if part.any()}
