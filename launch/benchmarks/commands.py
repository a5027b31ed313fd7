"""``metagen benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launch.benchmarks.registry import SCRIPTED, Script
from launch.options import int_list


@click.group()
def benchmark() -> None:
    """Measure what metagen does, against what it must beat.

    few-shot is in the package; the others are scripts of the repository, run from a checkout, and take the script's own
    options after '--'. Those that train keep what is done: an interrupted one goes on where it was.
    """


def _positive(default: int, least: int = 1) -> dict[str, Any]:
    return {"type": click.IntRange(min=least), "default": default, "show_default": True}


@benchmark.command("few-shot")
@click.option(
    "--preset", default="policy", show_default=True, metavar="PRESET|FILE.yaml", help="What is put to the test."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a config key; repeatable.")
@click.option("--seeds", **_positive(3), help="Training runs of everything.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: runs/few-shot-PRESET]")
@click.option("--domains", default="own,omniglot", show_default=True, help="own: the preset's data. Or sources' names.")
@click.option("--omniglot", type=click.Path(path_type=Path), help="A local file or folder; downloaded by default.")
@click.option("--shots", default="5,1,10", show_default=True, help="Images shown; the first for samples and speed-up.")
@click.option("--steps", default="0,1,5,10,20", show_default=True, callback=int_list, help="Inner steps.")
@click.option("--classes", **_positive(100), help="Test classes of each data set.")
@click.option("--curve-classes", **_positive(16), help="Of them, for the speed-up.")
@click.option("--sample-classes", **_positive(50), help="Of them, for new images.")
@click.option("--samples", **_positive(8, 2), help="New images of each class.")
@click.option("--tuning-classes", **_positive(8), help="Validation classes that step sizes are tuned on.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def few_shot(workers: int | None, out: Path | None, domains: str, shots: str, **options: Any) -> None:
    """A preset against its rivals at equal compute.

    On classes never seen. Trains the preset, a set-conditioned and an unconditioned model by its first phase alone,
    and Reptile at FIGR's settings and tuned, each on as many images; adapts them by Adam tuned on validation classes,
    all of the network or FiLM and head alone, and a network from scratch. Writes few-shot.json, few-shot.md and
    few-shot.png to --out.

    \b
    Example:
      metagen benchmark few-shot --preset quickstart --seeds 3 --omniglot omniglot28.npz
    """
    from launch.benchmarks.few_shot import Plan
    from launch.benchmarks.few_shot_run import run_few_shot
    from metagen.pool import available_cores

    plan = Plan(
        **options,
        out=out or Path("runs") / f"few-shot-{Path(options['preset']).stem}",
        domains=tuple(part.strip() for part in domains.split(",")),
        shots=_in_order(shots),
        workers=workers or available_cores(),
    )
    run_few_shot(plan)


def _in_order(text: str) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{text}': give whole numbers separated by commas", param_hint="--shots") from None
    if min(numbers) < 1:
        raise click.BadParameter(f"'{text}': at least one image has to be shown", param_hint="--shots")
    return tuple(dict.fromkeys(numbers))


def _scripted(name: str, script: Script) -> click.Command:
    @click.command(name, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...], seeds: int | None = None, out: Path | None = None) -> None:
        from launch.benchmarks.scripts import run_script

        run_script(script, seeds, out, arguments)

    command.help = (
        f"{script.about}\n\nRuns benchmarks/{script.file} of a checkout; what follows '--' is given to it.\n\n"
        f"\b\nExample:\n  metagen benchmark {name} -- --help"
    )
    if script.seeds:
        command.params.append(click.Option(["--seeds"], type=click.IntRange(min=1), help="Training runs."))
        command.params.append(click.Option(["--out"], type=click.Path(path_type=Path), help="Where runs are kept."))
    return command


for _name, _script in SCRIPTED.items():
    benchmark.add_command(_scripted(_name, _script))
