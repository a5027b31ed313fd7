"""``metagen evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from launch.options import CheckpointPath, checkpoint_argument, int_list


def _none_or_two(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if value == 1:
        raise click.BadParameter("1: images of a class are compared with each other: give 2 or more, or 0 for none")
    return value


@click.command()
@checkpoint_argument
@click.option("--data", type=click.Path(path_type=Path), help="A folder or .npz of other classes; or a source's name.")
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), default="test", show_default=True)
@click.option("--shots", type=click.IntRange(min=1), help="Images shown of each class.  [default: as trained]")
@click.option("--steps", default="0,5,10,20", show_default=True, callback=int_list, help="Inner steps to measure at.")
@click.option(
    "--tasks", "tasks_", type=click.IntRange(min=1), default=24, show_default=True, help="Classes to test on."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of classes and noise.")
@click.option("--joint", type=CheckpointPath(), help="Unconditioned baseline.  [default: the packaged one]")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    callback=_none_or_two,
    help="New images of each class; 0 for none.",
)
@click.option(
    "--extractor", default="strokes", show_default=True, help="Features: strokes, pyramid, or package.module:Class."
)
@click.option("--sample-rivals", is_flag=True, help="Measure new images of the fine-tuned baselines as well.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that take a class each.  [default: up to one a core]"
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="[default: evaluation.json in CHECKPOINT]")
@click.option("--page", type=click.Path(path_type=Path), help="[default: beside the JSON]")
@click.option("--picture", type=click.Path(path_type=Path), help="[default: samples.png in CHECKPOINT]")
def evaluate(
    checkpoint: Path,
    data: Path | None,
    split: str,
    shots: int | None,
    steps: tuple[int, ...],
    tasks_: int,
    seed: int,
    joint: Path | None,
    samples: int,
    extractor: str,
    sample_rivals: bool,
    workers: int | None,
    json_file: Path | None,
    page: Path | None,
    picture: Path | None,
) -> None:
    """Measure a checkpoint on classes it has never seen, against what it must beat.

    Compares the meta-trained model and its policy with the same weights fine-tuned by tuned Adam, and with an
    unconditioned, jointly trained model fine-tuned by tuned Adam. Measures new images of these classes beside those of
    a copycat, who alters the images shown a little, and real ones. Prints tables and writes them as JSON and as one
    page to open in a browser, with the images. CHECKPOINT is a run or checkpoint folder.

    \b
    Examples:
      metagen evaluate runs/quickstart
      metagen evaluate runs/quickstart --data omniglot28.npz --tasks 50 --json omniglot.json
    """
    from launch.generators.evaluation import Request, run_evaluation

    run_evaluation(
        Request(
            checkpoint,
            data,
            split,
            shots,
            steps,
            tasks_,
            seed,
            joint,
            samples,
            extractor,
            sample_rivals,
            workers,
            json_file,
            picture,
            page,
        )
    )
