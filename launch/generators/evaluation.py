"""What ``metagen evaluate`` does: methods, table, JSON, picture."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from launch.generators.generation import write_picture
from metagen import __version__, tasks
from metagen.checkpoint import Checkpoint, load_checkpoint
from metagen.errors import UserError
from metagen.evaluate import (
    MIN_QUERIES,
    STEP_SIZES,
    Bench,
    Losses,
    Method,
    by_category,
    choose_classes,
    drawn,
    fine_tuned,
    method_of,
    report,
    tune,
)
from metagen.picture import grid
from metagen.pool import one_thread
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import ImageSet

TUNING_CLASSES, ROWS, SAMPLES = 8, 8, 8


@dataclass(frozen=True)
class Request:
    """The command line's wishes."""

    checkpoint: Path
    data: Path | None
    split: str
    shots: int | None
    steps: tuple[int, ...]
    tasks: int
    seed: int
    joint: Path | None
    json_file: Path | None
    picture: Path | None


def run_evaluation(request: Request) -> None:
    """Evaluate, print the table, write ``evaluation.json`` and ``samples.png``."""
    started = time.monotonic()
    one_thread()
    saved = load_checkpoint(request.checkpoint)
    shots = request.shots or saved.config.episode.shots
    own = tasks.load(saved.config.data)
    images = own if request.data is None else tasks.load(data_config(saved.config.data, request.data))
    classes, few = choose_classes(images, request.split, shots, request.tasks, request.seed)
    for note in images.notes:
        print(f"note: {note}", file=sys.stderr)
    if few:
        print(f"note: {len(few)} classes of split '{request.split}' have too few images: {', '.join(few[:5])}")
    bench = Bench(images, classes, shots, request.seed)
    # Tuning reads validation classes of the data the model was trained on: what a user has before the new task.
    tuning = _tuning_bench(own, shots, request.seed)
    meta = method_of(saved)
    rivals = [Rival("finetune", meta, tuning)]
    if request.data is not None and len(images.members("valid", shots + MIN_QUERIES)):
        # And what fine-tuning could do at best: tuned on validation classes of the very data set tested on.
        rivals.append(Rival("finetune_oracle", meta, _tuning_bench(images, shots, request.seed)))
    joint = _joint(request.joint, saved, meta)
    if joint is not None:
        rivals.append(Rival("joint", joint, tuning))
    losses, sizes = _measure(bench, meta, rivals, request.steps)
    picture = request.picture or home_of(request.checkpoint) / "samples.png"
    values: dict[str, Any] = {
        "metagen": __version__,
        "checkpoint": str(request.checkpoint),
        "step": saved.state.step,
        "data": images.name,
        "split": request.split,
        "split_origin": images.split_origin,
        "shots": shots,
        "steps": list(request.steps),
        "seed": request.seed,
        "metric": meta.problem.family.metric,
        "classes": [images.classes[index] for index in classes],
        "too_few_images": few,
        "step_size_grid": list(STEP_SIZES),
        "methods": report(bench, losses, request.steps),
    }
    if sorter := meta.problem.sorter:
        of = bench.categories(sorter)
        values["categories"] = dict(zip(values["classes"], of, strict=True))
        for name, found in by_category(losses, of, request.steps).items():
            values["methods"][name]["by_category"] = found
    for name, chosen in sizes.items():
        values["methods"][name]["step_size"] = {str(k): size for k, size in chosen.items()}
    spread = classes[:: max(1, len(classes) // ROWS)][:ROWS]
    adapted = min(10, max(request.steps))
    rows = drawn(meta, bench, spread, adapted, SAMPLES)
    write_picture(grid(rows, titles=("shown", f"generated after {adapted} steps")), picture, "--picture")
    target = request.json_file or home_of(request.checkpoint) / "evaluation.json"
    write_json(target, values)
    _print(values, images, len(classes))
    print(f"wrote {target} and {picture} in {time.monotonic() - started:.0f} s")


def data_config(trained: DataConfig, data: Path) -> DataConfig:
    """The config of another data set at the size that a model was trained for: a source's name or a path."""
    values = {"image_size": trained.image_size, "channels": trained.channels}
    if ":" in str(data) or (str(data) in tasks.REGISTRY and not data.exists()):
        return DataConfig.parse({**values, "source": str(data)})
    if (data / "images_evaluation.zip").is_file():
        return DataConfig.parse({**values, "source": "omniglot", "path": str(data)})
    if data.is_dir():
        return DataConfig.parse({**values, "source": "folder", "path": str(data), "polarity": "auto"})
    if not data.is_file():
        raise UserError(f"{data}: no such file or folder; give a folder of class folders, an .npz, or a source's name")
    source = "omniglot" if "omniglot" in data.name else "npz"
    return DataConfig.parse({**values, "source": source, "path": str(data)})


@dataclass(frozen=True)
class Rival:
    """What the meta-trained method is compared with: a starting point, fine-tuned by Adam tuned on ``tuning``."""

    name: str
    start: Method
    tuning: Bench


def _tuning_bench(images: ImageSet, shots: int, seed: int) -> Bench:
    return Bench(images, choose_classes(images, "valid", shots, TUNING_CLASSES, seed)[0], shots, seed)


def _measure(
    bench: Bench, meta: Method, rivals: Sequence[Rival], steps: Sequence[int]
) -> tuple[dict[str, Losses], dict[str, dict[int, float]]]:
    losses: dict[str, Losses] = {}
    sizes: dict[str, dict[int, float]] = {}
    columns = TextColumn("{task.description:<24}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")

        def ticking(what: str, total: int) -> None:
            progress.reset(bar, description=what, total=total)

        def tick() -> None:
            progress.advance(bar)

        ticking("meta", len(bench.classes))
        losses["meta"] = bench.losses(meta, steps, tick)
        for rival in rivals:
            ticking(f"{rival.name}: tuning", len(STEP_SIZES) * len(rival.tuning.classes))
            sizes[rival.name] = tune(rival.tuning, rival.start, steps, tick)
            ticking(rival.name, len(set(sizes[rival.name].values())) * len(bench.classes))
            losses[rival.name] = fine_tuned(bench, rival.start, sizes[rival.name], steps, tick)
    return losses, sizes


def _joint(path: Path | None, saved: Checkpoint, meta: Method) -> Method | None:
    """The unconditioned baseline: the one asked for, else the packaged one if it fits the data and the metric."""

    def form(checkpoint: Checkpoint) -> tuple[int, int]:
        return checkpoint.config.data.image_size, checkpoint.config.data.channels

    metric = meta.problem.family.metric
    if path is not None:
        joint = load_checkpoint(path)
        if form(joint) != form(saved):
            raise UserError(
                f"{path}: draws images of (size, channels) {form(joint)}, the checkpoint to evaluate {form(saved)}: "
                "train the baseline on images of the same form"
            )
        method = method_of(joint)
        if method.problem.family.metric != metric:
            raise UserError(
                f"{path}: is measured in {method.problem.family.metric}, the checkpoint to evaluate in {metric}, and "
                "the two do not compare: train the baseline with the same generator.family and options"
            )
        return method
    with resources.as_file(resources.files("launch") / "baselines" / "joint") as packaged:
        joint = load_checkpoint(packaged)
    if (joint.config.data.source, *form(joint)) != (saved.config.data.source, *form(saved)):
        print("note: the packaged joint baseline was trained on other data: give yours with --joint", file=sys.stderr)
        return None
    method = method_of(joint)
    if method.problem.family.metric != metric:
        print(
            f"note: the packaged joint baseline is of family '{joint.config.generator.family}' and measured in "
            f"{method.problem.family.metric}, not {metric}: give yours with --joint",
            file=sys.stderr,
        )
        return None
    return method


def write_json(target: Path, values: dict[str, Any]) -> None:
    """Write figures atomically; raises ``UserError`` if the file cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(json.dumps(values, indent=1))
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}): choose another with --json") from None


def _print(values: dict[str, Any], images: ImageSet, classes: int) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(
        title=f"{values['metric']} on {classes} unseen classes of {images.name}, {values['shots']} shots "
        "(95% interval; lower is better)",
        title_justify="left",
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
    console.print(table)
    if "categories" in values:
        console.print(_category_table(values))


def _category_table(values: dict[str, Any]) -> Table:
    """Mean losses of every method, a row for each category and method."""
    table = Table(title="by category of task", title_justify="left")
    for column in ("category", "classes", "method", *(f"{k} steps" for k in values["steps"])):
        table.add_column(column, justify="left" if column == "method" else "right")
    sizes = Counter(values["categories"].values())
    for category in sorted(sizes):
        for row, (name, entry) in enumerate(values["methods"].items()):
            means = (f"{entry['by_category'][str(category)][str(k)]['mean']:.4f}" for k in values["steps"])
            first = (str(category), str(sizes[category])) if row == 0 else ("", "")
            table.add_row(*first, name, *means)
    return table


def home_of(checkpoint: Path) -> Path:
    """Where results lie by default: the run folder, also when one of its checkpoints was named."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
