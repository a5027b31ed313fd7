"""What ``metagen policy show`` does: tables by category and by layer, a picture, JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from launch.generators.evaluation import data_config, home_of
from launch.output import check_picture, check_writable, write_json, write_picture
from launch.policies.plot import Panel, plot
from launch.table import table_of
from metagen import tasks
from metagen.checkpoint import load_checkpoint
from metagen.evaluate import Bench, choose_classes, method_of
from metagen.picks import Pick, picks, shares, typical
from metagen.pool import one_thread
from metagen.wording import counted

Groups = dict[str, list[Pick]]


def show_policy(
    checkpoint: Path,
    data: Path | None,
    split: str,
    count: int,
    steps: int,
    shots: int | None,
    seed: int,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Adapt to ``count`` tasks, and show what was picked on the way."""
    target = out or home_of(checkpoint) / "policy.png"
    check_picture(target, "--out")
    if json_file:
        check_writable(json_file, "--json")
    one_thread()
    saved = load_checkpoint(checkpoint)
    config = saved.config
    images = tasks.load(config.data if data is None else data_config(config.data, data))
    shots = shots or config.episode.shots
    classes, _ = choose_classes(images, split, shots, count, seed)
    method = method_of(saved)
    picked = picks(method, Bench(images, classes, shots, seed), steps)
    found = list(track(picked, "adapting", len(classes), console=Console(stderr=True), transient=True))
    groups = grouped(found)
    layout = method.problem.network.layout
    console = Console(highlight=False, markup=False, emoji=False)
    seen = f"{counted(len(found), 'task')} of {images.name}, split {split}, {counted(shots, 'shot')}"
    title = f"policy {config.policy.name}: {seen}"
    console.print(_by_category(title, groups))
    whole = typical(found)
    console.print()
    if len(whole):
        console.print(_by_layer(whole, layout.layers, layout.layer_sizes))
    panels = [Panel(_label(name, group), shares(group), typical(group)) for name, group in groups.items()]
    write_picture(plot(panels, layout.layers), target, "--out")
    if json_file:
        write_json(json_file, _values(groups, layout.layers))
    print(f"wrote {target}" + (f" and {json_file}" if json_file else ""))
    if config.categories.found is None:
        print("note: trained without categories, so all tasks are one (see categories.most)", file=sys.stderr)


def grouped(found: Sequence[Pick]) -> Groups:
    """The picks of each category that there are tasks of, and of all tasks together."""
    names = sorted({pick.category for pick in found if pick.category is not None})
    groups = {str(c): [pick for pick in found if pick.category == c] for c in names}
    return {**groups, "all": list(found)}


def _label(name: str, group: list[Pick]) -> str:
    return f"{'all tasks' if name == 'all' else f'category {name}'} ({len(group)})"


def _by_category(title: str, groups: Groups) -> Table:
    table = table_of(title)
    for column in ("category", "tasks", "rules", "steps", "step size: first", "last", "spread of first"):
        table.add_column(column, justify="left" if column == "rules" else "right")
    for name, group in groups.items():
        rules = ", ".join(f"{rule} {share:.0%}" for rule, share in shares(group).items())
        taken = sorted(len(pick.log10_sizes) for pick in group)
        # Of the layers that moved: a policy that solves for one of them leaves the others where they are.
        moved = [pick.log10_sizes.masked_fill(pick.log10_sizes.isinf(), math.nan) for pick in group]
        sizes = [each.nanmedian(1).values for each in moved if len(each)]
        cells = ("-", "-", "-")
        if sizes:
            first, last = (sorted(float(10 ** s[i]) for s in sizes) for i in (0, -1))
            tenth = len(first) // 10
            spread = f"{first[tenth]:.1e} to {first[-1 - tenth]:.1e}"
            cells = (f"{first[len(first) // 2]:.1e}", f"{last[len(last) // 2]:.1e}", spread)
        table.add_row(name, str(len(group)), rules, str(taken[len(taken) // 2]), *cells)
    return table


def _by_layer(sizes: Tensor, names: Sequence[str], counts: Sequence[int]) -> Table:
    """``sizes [steps, L]`` at the first step, in the middle, and at the last."""
    table = table_of("step size by layer (median over tasks)")
    columns = {"first": 0, f"step {len(sizes) // 2 + 1}": len(sizes) // 2, "last": len(sizes) - 1}
    for column in ("layer", "parameters", *columns):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer, (name, count) in enumerate(zip(names, counts, strict=True)):
        table.add_row(name, f"{count:,}", *(_size(float(sizes[j, layer])) for j in columns.values()))
    return table


def _size(log10: float) -> str:
    """A layer's step size; a dash where it did not move."""
    return f"{10**log10:.1e}" if math.isfinite(log10) else "-"


def _values(groups: Groups, layers: Sequence[str]) -> dict[str, Any]:
    """The figures as JSON: log10 of step sizes, ``[steps][layers]``."""
    return {
        "layers": list(layers),
        "groups": {
            name: {
                "tasks": [pick.class_name for pick in group],
                "rules": shares(group),
                "steps": [len(pick.log10_sizes) for pick in group],
                "log10_step_size": typical(group).tolist(),
            }
            for name, group in groups.items()
        },
    }
