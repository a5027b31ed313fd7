"""``metagen describe``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", default="quickstart", metavar="[PRESET|FILE.yaml]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a config key; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to a file as well.")
def describe(source: str, assignments: tuple[str, ...], json_file: Path | None) -> None:
    """Show a config's network, and what it costs, before training it.

    Layers with output shapes, parameters and FLOPs; their totals; the memory that a task takes; family, policy
    and phases. Trains nothing and loads no images.

    \b
    Examples:
      metagen describe standard
      metagen describe quickstart --set generator.architecture.widths=[32,64] --json network.json
    """
    from launch.generators.description import print_description
    from launch.preset import load_config

    print_description(load_config(source, assignments, None, None), json_file)
