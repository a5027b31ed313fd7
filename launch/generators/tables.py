"""An evaluation in the terminal: losses, what the samples are worth, and both by category."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from metagen.quality import READINGS


def print_tables(values: dict[str, Any]) -> None:
    """Print all tables of an evaluation's figures."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_losses(values))
    if "samples" in values:
        console.print(_samples(values))
    for table in _categories(values):
        console.print(table)


def _losses(values: dict[str, Any]) -> Table:
    table = _table(
        f"{values['metric']} on {len(values['classes'])} unseen classes of {values['data']}, {values['shots']} shots "
        "(95% interval; lower is better)"
    )
    table.add_column("method", overflow="fold")
    for k in values["steps"]:
        table.add_column(f"{k} steps", justify="right", overflow="fold")
    for name, entry in values["methods"].items():
        cells = [entry["query_loss"][str(k)] for k in values["steps"]]
        table.add_row(name, *(f"{c['mean']:.4f}\n{c['low']:.4f}-{c['high']:.4f}" for c in cells))
    for name, entry in values["methods"].items():
        if "meta_minus_this" in entry:
            cells = [entry["meta_minus_this"][str(k)] for k in values["steps"]]
            marks = (f"{c['mean']:+.4f}\n{c['low']:+.4f} {c['high']:+.4f}" for c in cells)
            table.add_row(f"meta minus\n{name}", *marks, style="dim")
    return table


def _samples(values: dict[str, Any]) -> Table:
    samples = values["samples"]
    table = _table(
        f"{samples['images']} new images of these classes after {samples['steps']} steps, features of "
        f"'{samples['extractor']}' (95% interval)"
    )
    table.add_column("metric", overflow="fold")
    table.add_column("best", overflow="fold")
    for name in samples["methods"]:
        table.add_column(name, justify="right", overflow="fold")
    for metric, reading in READINGS.items():
        cells = [entry[metric] for entry in samples["methods"].values()]
        digits = digits_of(cells)
        texts = (f"{c['mean']:.{digits}f}\n{c['low']:.{digits}f}-{c['high']:.{digits}f}" for c in cells)
        table.add_row(reading.title, reading.best, *texts)
    return table


def digits_of(cells: list[dict[str, Any]]) -> int:
    """Decimals that show three figures of the largest of a metric's means, 1 to 4 of them."""
    largest = max(abs(cell["mean"]) for cell in cells)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3 if largest >= 0.05 else 4


def _categories(values: dict[str, Any]) -> list[Table]:
    """One table if the classes have categories: the last losses and the mean metrics of samples of each."""
    steps = str(values["steps"][-1])
    meta = values["methods"]["meta"]["query_loss"][steps].get("by_category")
    if meta is None:
        return []
    table = _table("By category")
    table.add_column("category", overflow="fold")
    table.add_column("classes", justify="right")
    rivals = {name: entry["query_loss"][steps]["by_category"] for name, entry in values["methods"].items()}
    for name in rivals:
        table.add_column(f"{name}\n{steps} steps", justify="right", overflow="fold")
    shown = [m for m in ("kid", "recognisability") if "samples" in values]
    for metric in shown:
        table.add_column(f"meta\n{READINGS[metric].title}", justify="right", overflow="fold")
    for category, cell in meta.items():
        row = [category, str(cell["classes"]), *(f"{found[category]['mean']:.4f}" for found in rivals.values())]
        row += [f"{values['samples']['methods']['meta'][m]['by_category'][category]['mean']:.3f}" for m in shown]
        table.add_row(*row)
    return [table]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left")
