"""Named run configs, and how a config comes together: preset or file, then ``--set``, then ``--steps``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from metagen.config import RunConfig
from metagen.errors import UserError, nearest
from metagen.values import override, read_yaml


def presets() -> dict[str, Path]:
    """The packaged presets by name."""
    with resources.as_file(resources.files("launch") / "presets") as folder:
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(
    source: str, assignments: Sequence[str] = (), steps: int | None = None, seed: int | None = None
) -> RunConfig:
    """The config that a preset's name or a YAML file's path stands for, with changes applied."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        values = read_yaml(path)
    elif source in presets():
        values = read_yaml(presets()[source])
    else:
        raise UserError(f"unknown preset '{source}'{nearest(source, presets())} (or give a .yaml file)")
    values.setdefault("name", path.stem)
    values = override(values, assignments)
    if seed is not None:
        values["seed"] = seed
    config = RunConfig.parse(values)
    return config if steps is None else config.with_steps(steps)
