"""Figures of evaluations and benchmarks as Markdown tables; used for reports and for the documentation's pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.generators.tables import digits_of
from metagen.quality import READINGS

Cell = Mapping[str, float]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, its first column to the left."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- |", "|---|").replace(" --- |", "---|")


def losses(methods: Mapping[str, Any], steps: Sequence[int], names: Mapping[str, str]) -> str:
    """Query losses of all methods, then the differences to them with their intervals."""
    rows = []
    for name, entry in methods.items():
        rows.append([names[name], *(f"{entry['query_loss'][str(k)]['mean']:.4f}" for k in steps)])
    for name, entry in methods.items():
        if "meta_minus_this" in entry:
            cells = [spread(entry["meta_minus_this"][str(k)], 4, "+") for k in steps]
            rows.append([f"metagen minus *{names[name]}*", *cells])
    return table(["method", *(f"{k} steps" for k in steps)], rows)


def samples(methods: Mapping[str, Mapping[str, Cell]], title: str, names: Mapping[str, str]) -> str:
    """Metrics of new images with intervals: a row for each method, a column for each metric."""
    digits = {metric: digits_of([dict(entry[metric]) for entry in methods.values()]) for metric in READINGS}
    head = [title, *(f"{reading.title} ({reading.best})" for reading in READINGS.values())]
    return table(head, ([names[n], *(spread(e[m], d) for m, d in digits.items())] for n, e in methods.items()))


def spread(cell: Cell, digits: int, sign: str = "") -> str:
    """``mean (low, high)``."""
    mean, low, high = (f"{cell[part]:{sign}.{digits}f}" for part in ("mean", "low", "high"))
    return f"{mean} ({low}, {high})"
