"""Named run configs, and how a config comes together: preset or file, then ``--set``, then ``--steps``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from launch.options import checkpoint_path
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.errors import UserError, nearest
from metagen.names import checked, name_of
from metagen.values import override, read_yaml


def presets() -> dict[str, Path]:
    """The packaged presets by name."""
    with resources.as_file(resources.files("launch") / "presets") as folder:
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(
    source: str,
    assignments: Sequence[str] = (),
    steps: int | None = None,
    seed: int | None = None,
    start_from: str | None = None,
) -> RunConfig:
    """The config that a preset's name or a YAML file's path stands for, with changes applied.

    A preset that starts from a checkpoint takes over its generator, and the form and polarity of its images; a file
    says its own.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        values = read_yaml(path)
    elif source in presets():
        values = read_yaml(presets()[source])
    else:
        raise UserError(f"unknown preset '{source}'{nearest(source, presets())} (or give a .yaml file)")
    values.setdefault("name", name_of(path.stem))
    if start_from is not None:
        values["start_from"] = start_from
    changed = override(values, assignments)
    if source in presets() and changed.get("start_from"):
        changed = override(values | _of_checkpoint(str(changed["start_from"]), values, changed), assignments)
    values = changed
    if seed is not None:
        values["seed"] = seed
    config = RunConfig.parse(values)
    checked(config.name)  # where a run begins, and not where a checkpoint of another name is read
    return config if steps is None else config.with_steps(steps)


def _of_checkpoint(word: str, values: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What a preset of ``values`` takes over from the checkpoint that it starts from, to learn from the data ``asked``
    for; raises ``UserError`` if it is a recipe for another family."""
    config = load_checkpoint(checkpoint_path(word)).config
    mine, theirs = values.get("generator", {}).get("family", config.generator.family), config.generator.family
    if mine != theirs:
        raise UserError(
            f"start_from: {word} is of family {theirs}, preset '{values['name']}' is for {mine}: use another of them"
        )
    form = config.data.model_dump(mode="json", include={"image_size", "channels"})
    data = asked.get("data")  # not checked yet
    if isinstance(data, dict) and data.get("source") in ("folder", "npz"):
        form["polarity"] = config.data.polarity_of_others
    return {
        "generator": config.generator.model_dump(mode="json"),
        "data": {**values.get("data", {}), **form},
    }
