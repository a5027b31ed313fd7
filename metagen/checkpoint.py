"""Checkpoints: a folder with ``state.safetensors`` and ``checkpoint.json``, whole or not there at all.

The JSON is the manifest: config, counters, layout and the hash of the weights. Nothing is ever unpickled.
A checkpoint is written beside its place, flushed to disk, and renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from metagen import __version__
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.flat import Layout
from metagen.guard import Watch
from metagen.records import Snapshot, packed, unpacked
from metagen.state import MetaState

FORMAT = 1
WEIGHTS, MANIFEST = "state.safetensors", "checkpoint.json"
FINAL, BEST = "final", "best"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds."""

    path: Path
    config: RunConfig
    state: MetaState
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    layers: tuple[str, ...]

    def fits(self, layout: Layout) -> None:
        """Raise ``UserError`` unless the weights belong to a network of this layout."""
        if (self.names, self.shapes) == (layout.names, layout.shapes):
            return
        mine = dict(zip(self.names, self.shapes, strict=True))
        theirs = dict(zip(layout.names, layout.shapes, strict=True))
        name = next(n for n in sorted({*mine, *theirs}) if mine.get(n) != theirs.get(n))
        raise UserError(
            f"{self.path}: a checkpoint of another architecture ({name} is {mine.get(name, 'absent')} in it and "
            f"{theirs.get(name, 'absent')} in the config): use the config it was trained with"
        )


def save_checkpoint(folder: Path, config: RunConfig, layout: Layout, state: MetaState) -> None:
    """Write ``folder`` atomically, replacing one of that name. Raises ``UserError`` if the disk refuses."""
    _publish(
        folder,
        config,
        layout,
        state,
        {
            "theta": state.theta,
            "policy": state.policy,
            "mean": state.mean,
            **({"residual": state.residual} if len(state.residual) else {}),
            **{f"moments.{name}": value for name, value in state.moments.items()},
            **{f"policy_moments.{name}": value for name, value in state.policy_moments.items()},
            **{f"anchor.{name}": value for name, value in state.anchor.items()},
            **{f"recent.{s.version}.theta": unpacked(s.theta) for s in state.recent},
            **{f"recent.{s.version}.policy": unpacked(s.policy) for s in state.recent},
        },
    )


def export_checkpoint(folder: Path, config: RunConfig, layout: Layout, state: MetaState) -> None:
    """Write what evaluation and adaptation need and no more: the weights in bf16 and the policy.

    Training cannot be continued from it. Atomic, as ``save_checkpoint`` is.
    """
    _publish(folder, config, layout, state, {"mean": state.mean.bfloat16(), "policy": state.policy})


def _publish(folder: Path, config: RunConfig, layout: Layout, state: MetaState, tensors: dict[str, Tensor]) -> None:
    weights = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    manifest = {
        "format": FORMAT,
        "metagen": __version__,
        "torch": str(torch.__version__),
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "version": state.version,
        "tasks": state.tasks,
        "applied": [list(pair) for pair in state.applied],
        "owed": [list(piece) for piece in state.owed],
        "counts": {str(verdict): count for verdict, count in state.counts.items()},
        "watch": asdict(state.watch),
        "phase": config.phase_at(max(state.step - 1, 0))[0],
        "score": state.watch.score,
        "names": layout.names,
        "shapes": layout.shapes,
        "layers": layout.layers,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    manifest["manifest_sha256"] = _digest(manifest)
    with publishing(folder) as partial:
        _write(partial / WEIGHTS, weights)
        _write(partial / MANIFEST, json.dumps(manifest, indent=1).encode())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest checkpoint of a run folder; ``RUN/checkpoints/best`` is its best.

    Raises ``UserError`` for a folder that is neither, a truncated or altered checkpoint, or another format.
    """
    folder = _resolve(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        weights = folder / WEIGHTS
        if hashlib.sha256(weights.read_bytes()).hexdigest() != manifest["sha256"]:
            raise UserError(f"{folder}: damaged checkpoint ({WEIGHTS} is not what {MANIFEST} describes): use another")
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder}: checkpoint format {manifest['format']}, this metagen reads {FORMAT}: upgrade")
        if _digest(manifest) != manifest.get("manifest_sha256", _digest(manifest)):
            raise UserError(f"{folder}: damaged checkpoint ({MANIFEST} is not what was written): use another")
        # Copied, since in the file they lie at any address, and products in BLAS depend on it: to resume bit for bit,
        # vectors must lie as those of a run do that was never stopped.
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        config = RunConfig.parse(manifest["config"])
        return Checkpoint(
            path=folder,
            config=config,
            state=_state(manifest, tensors, config),
            names=tuple(manifest["names"]),
            shapes=tuple(tuple(shape) for shape in manifest["shapes"]),
            layers=tuple(manifest["layers"]),
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}: {error.filename})") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: truncated or damaged checkpoint ({error}): use another") from None


def step_name(step: int) -> str:
    """What the checkpoint after ``step`` outer steps is called, but for the final one."""
    return f"step-{step:06d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first; ``final`` is the last if it is there."""
    folder = run / "checkpoints"
    return [folder / name for name in oldest_first(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))]


def oldest_first(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are a run's checkpoints, by step; ``final`` is the last."""
    names = set(names)
    steps = sorted((n for n in names if n.startswith("step-")), key=lambda name: (len(name), name))
    return [*steps, *({FINAL} & names)]


def best_checkpoint(run: Path) -> Path | None:
    """A run's best checkpoint, as ``best_of`` says; None if none has a score."""
    best = best_of({path.name: (path / MANIFEST).read_bytes() for path in checkpoints(run)})
    return run / "checkpoints" / best if best else None


def best_of(manifests: Mapping[str, bytes]) -> str | None:
    """Of checkpoints, given oldest first, that of the newest phase whose running loss (``Watch.score``) was least."""
    ranks = {name: rank for name, manifest in manifests.items() if (rank := _rank(manifest)) is not None}
    return min(reversed(ranks), key=lambda name: ranks[name]) if ranks else None


def _rank(manifest: bytes) -> tuple[int, float] | None:
    try:
        values = json.loads(manifest)
        return -int(values["phase"]), float(values["score"])
    except (ValueError, KeyError, TypeError):  # of an earlier version, exported, or torn: no candidate
        return None


def prune(run: Path, keep: int) -> None:
    """Delete all step checkpoints of a run but the ``keep`` newest and the best, and what a killed save left behind."""
    steps = [path for path in checkpoints(run) if path.name != FINAL]
    old = {*steps[: max(len(steps) - keep, 0)]} - {best_checkpoint(run)}
    for path in [*old, *(run / "checkpoints").glob(".partial-*")]:
        shutil.rmtree(path)


@contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``folder`` if the block succeeds and vanishes if it does not."""
    partial = folder.parent / f".partial-{folder.name}-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _flush(partial)
        if folder.exists():  # a folder cannot be renamed over another: move the old one away first
            old = folder.parent / f".partial-old-{folder.name}-{os.getpid()}"
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.rename(folder)
        _flush(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}): free some space or choose another place"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _digest(manifest: dict[str, Any]) -> str:
    """The hash of a manifest without its own."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _resolve(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    if path.name == BEST and path.parent.name == "checkpoints" and (best := best_checkpoint(path.parent.parent)):
        return best
    if found := checkpoints(path):
        return found[-1]
    if not path.exists():
        raise UserError(f"{path}: no such folder; give a run folder or a checkpoint folder")
    raise UserError(f"{path}: no checkpoint in it; give a run folder or a checkpoint folder")


def _state(manifest: dict[str, Any], tensors: dict[str, Tensor], config: RunConfig) -> MetaState:
    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return MetaState(
        theta=tensors.get("theta", tensors["mean"]).float(),
        policy=tensors["policy"],
        mean=tensors["mean"].float(),
        moments=group("moments."),
        policy_moments=group("policy_moments."),
        step=manifest["step"],
        version=manifest["version"],
        applied=tuple((int(version), str(work_id)) for version, work_id in manifest["applied"]),
        residual=tensors.get("residual", torch.zeros(0)),
        owed=tuple((int(step), int(index)) for step, index in manifest.get("owed", ())),
        counts=dict(manifest["counts"]),
        watch=_watch(manifest.get("watch", {})),
        anchor=group("anchor."),
        tasks=manifest["tasks"],
        recent=tuple(
            Snapshot(
                version,
                packed(tensors[f"recent.{version}.theta"], config.dtype),
                packed(tensors[f"recent.{version}.policy"], torch.float32),
            )
            for version in sorted(int(name.split(".")[0]) for name in group("recent.") if name.endswith(".theta"))
        ),
    )


def _watch(values: dict[str, Any]) -> Watch:
    """The guard's memory; a checkpoint of another release may hold less of it, or more."""
    names = {field.name for field in fields(Watch)} & set(values)
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v := values[name], list) else v for name in names}
    return Watch(**plain)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
