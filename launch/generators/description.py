"""What ``metagen describe`` does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from launch.output import write_json
from metagen import describe
from metagen.config import RunConfig
from metagen.pool import one_thread

TITLES = ("kind", "output", "parameters", "an image", "a set")


def print_description(config: RunConfig, json_file: Path | None) -> None:
    """Print the table and totals; write them to ``json_file`` if there is one."""
    one_thread()
    found = describe.describe(config)
    console = Console(highlight=False, markup=False, emoji=False)
    channels, height, width = found.image
    table = Table(
        title=f"{found.name}: {found.family}, images {channels}x{height}x{width}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("layer", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for title, above in zip(TITLES[1:], ("", "", "FLOPs\n", "FLOPs\n"), strict=True):
        table.add_column(above + title, justify="right", no_wrap=True)
    rows = [
        (
            layer.kind,
            "" if layer.shape is None else "x".join(map(str, layer.shape)),
            _some(layer.parameters),
            *(_short(f) if f else "" for f in (layer.flops_image, layer.flops_set)),
        )
        for layer in found.layers
    ]
    totals = ("", "", _some(found.parameters), _short(found.flops_image), _short(found.flops_set))
    taken = sum(max(map(len, cells)) + 2 for cells in zip(*rows, totals, TITLES, strict=True))
    for layer, row in zip(found.layers, rows, strict=True):
        table.add_row(_at_dots(layer.name, console.width - taken), *row)
    table.add_section()
    table.add_row("total", *totals, style="bold")
    console.print(table)
    console.print()
    for name, text in (
        (
            "forward",
            f"{_short(found.flops_image)}FLOPs an image in a training loss, and "
            f"{_short(found.flops_set)}FLOPs once a task for its {found.shots} support images",
        ),
        ("sampling", f"{_short(found.flops_sample)}FLOPs for one image, with its support set"),
        (
            "memory",
            f"about {_short(found.memory)}B a task in {found.precision}, estimated: {_short(found.memory_parameters)}B "
            f"parameters, gradients and moments, {_short(found.memory_activations)}B activations of an inner step",
        ),
        ("policy", f"{found.policy}, {found.policy_parameters:,} parameters"),
        ("phases", "; then ".join(found.phases)),
    ):
        console.print(f"{name:<10}{text}", soft_wrap=True)
    if json_file is not None:
        write_json(json_file, {**asdict(found), "memory": found.memory})
        console.print(f"wrote {json_file}", soft_wrap=True)


def _at_dots(name: str, room: int) -> str:
    """A layer's name in lines of at most ``room``, broken after dots where it has them."""
    lines, least = [], max(room, 3)
    while len(name) > room:
        dot = name.rfind(".", 3, least)
        dot = dot if dot > 0 else name.find(".", least)
        if dot < 0:
            break
        lines.append(name[: dot + 1])
        name = f"  {name[dot + 1 :]}"
    return "\n".join([*lines, name])


def _some(count: int) -> str:
    return f"{count:,}" if count else ""


def _short(count: int) -> str:
    """``1234567`` to ``1.23 M``."""
    value = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000 or unit == "T":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
