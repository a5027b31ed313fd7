"""An evaluation in the terminal: losses, what the samples are worth, and both by category."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from launch.table import table_of
from metagen.quality import READINGS
from metagen.wording import counted

WIDEST = 1000
"""Columns that no table needs: its own width is measured within them."""


def print_tables(values: dict[str, Any]) -> None:
    """Print all tables of an evaluation's figures."""
    console = Console(highlight=False, markup=False, emoji=False)
    makers = [_losses]
    if "samples" in values:
        makers.append(_samples)
    if values["methods"]["meta"]["query_loss"][str(values["steps"][-1])].get("by_category"):
        makers.append(_categories)
    for make in makers:
        table = make(values, False)
        wide = Measurement.get(console, console.options.update(width=WIDEST), table).maximum > console.width
        console.print(make(values, True) if wide else table)
        console.print()


def _losses(values: dict[str, Any], narrow: bool) -> Table:
    kind = "" if values["split"] == "all" else f"{values['split']} "  # not 'unseen': those of train are seen
    classes = counted(len(values["classes"]), f"{kind}class", f"{kind}classes")
    table = table_of(
        f"{values['metric']} on {classes} of {values['data']}, {counted(values['shots'], 'shot')} "
        "(95% interval; lower is better)"
    )
    table.add_column("method", overflow="fold")
    for k in values["steps"]:
        table.add_column(counted(k, "step"), justify="right", overflow="fold")
    for name, entry in values["methods"].items():
        cells = [entry["query_loss"][str(k)] for k in values["steps"]]
        table.add_row(_broken(name, narrow), *(_interval(c, 4, False) for c in cells))
    for name, entry in values["methods"].items():
        if "meta_minus_this" in entry:
            cells = [entry["meta_minus_this"][str(k)] for k in values["steps"]]
            marks = (f"{c['mean']:+.4f}\n{c['low']:+.4f} {c['high']:+.4f}" for c in cells)
            table.add_row(f"meta minus\n{_broken(name, narrow)}", *marks, style="dim")
    return table


def _samples(values: dict[str, Any], narrow: bool) -> Table:
    samples = values["samples"]
    table = table_of(
        f"{counted(samples['images'], 'new image')} of these classes after {counted(samples['steps'], 'step')}, "
        f"features of '{samples['extractor']}' (95% interval)"
    )
    table.add_column("metric", overflow="fold")
    table.add_column("best", overflow="fold")
    for name in samples["methods"]:
        table.add_column(_broken(name, narrow), justify="right", overflow="fold")
    for metric, reading in READINGS.items():
        cells = [entry[metric] for entry in samples["methods"].values()]
        digits = digits_of(cells)
        title = _broken(reading.title, narrow)
        table.add_row(title, reading.best, *(_interval(c, digits, narrow) for c in cells))
    return table


def digits_of(cells: list[dict[str, Any]]) -> int:
    """Decimals that show three figures of the largest of a metric's means, 1 to 4 of them."""
    largest = max(abs(cell["mean"]) for cell in cells)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3 if largest >= 0.05 else 4


def _categories(values: dict[str, Any], narrow: bool) -> Table:
    """The last losses and the mean metrics of samples of each category."""
    steps, title = str(values["steps"][-1]), counted(values["steps"][-1], "step")
    meta = values["methods"]["meta"]["query_loss"][steps]["by_category"]
    table = table_of("By category")
    table.add_column("category", overflow="fold")
    table.add_column("classes", justify="right")
    rivals = {name: entry["query_loss"][steps]["by_category"] for name, entry in values["methods"].items()}
    for name in rivals:
        table.add_column(f"{_broken(name, narrow)}\n{title}", justify="right", overflow="fold")
    shown = [m for m in ("kid", "recognisability") if "samples" in values]
    for metric in shown:
        table.add_column(f"meta\n{_broken(READINGS[metric].title, narrow)}", justify="right", overflow="fold")
    for category, cell in meta.items():
        row = [category, str(cell["classes"]), *(f"{found[category]['mean']:.4f}" for found in rivals.values())]
        row += [f"{values['samples']['methods']['meta'][m]['by_category'][category]['mean']:.3f}" for m in shown]
        table.add_row(*row)
    return table


def _interval(cell: dict[str, float], digits: int, narrow: bool) -> str:
    """A mean above its interval, with a word between its ends where a dash would meet a sign."""
    dash = "-" if cell["low"] >= 0 else "" if narrow else " to "
    between = f"{dash}\n" if narrow else dash
    return f"{cell['mean']:.{digits}f}\n{cell['low']:.{digits}f}{between}{cell['high']:.{digits}f}"


def _broken(name: str, narrow: bool) -> str:
    """A long name in two lines where a table is too wide: rich would break it at the column's edge."""
    return name.replace("_", "_\n").replace("recognis", "recognis-\n") if narrow else name
