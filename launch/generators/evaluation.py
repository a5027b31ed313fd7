"""What ``metagen evaluate`` does: methods, tables, JSON, page, picture."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from launch import pretrained
from launch.generators.page import Row, html_page
from launch.generators.rivals import Rival, rivals_of
from launch.generators.tables import print_tables
from launch.output import check_picture, check_writable, write_json, write_picture, write_text
from metagen import __version__, tasks
from metagen.bootstrap import LEVEL
from metagen.checkpoint import load_checkpoint
from metagen.errors import UserError
from metagen.evaluate import (
    STEP_SIZES,
    Bench,
    Losses,
    Method,
    choose_classes,
    drawn,
    fine_tuned,
    method_of,
    report,
    tune,
)
from metagen.makers import Adapted, Copycat, Maker, Real, galleries, made_by
from metagen.metrics import extractor_of
from metagen.picture import grid
from metagen.pool import available_cores, one_thread
from metagen.processes import A, B, Each, side_by_side
from metagen.quality import Features, measured, nearest_real
from metagen.tasks.config import DataConfig, Polarity
from metagen.wording import counted, some

ROWS, SAMPLES = 8, 8
FEWEST = 4
"""Classes that a process of its own is started for."""


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
    samples: int
    """New images of each class that are measured; 0 for none."""
    extractor: str
    sample_rivals: bool
    workers: int | None
    """Processes that take a class each; None for as many as are worth their start."""
    json_file: Path | None
    picture: Path | None
    page: Path | None


def run_evaluation(request: Request) -> None:
    """Evaluate, print the tables, write ``evaluation.json``, ``evaluation.html`` and ``samples.png``."""
    started = time.monotonic()
    home = home_of(request.checkpoint)
    picture, target = request.picture or home / "samples.png", request.json_file or home / "evaluation.json"
    check_picture(picture, "--picture")
    check_writable(target, "--json")
    page = request.page or target.with_suffix(".html")
    check_writable(page, "--page")
    if len({path.absolute() for path in (picture, target, page)}) < 3:
        raise UserError(f"{target}, {page} and {picture}: one file for two of them: choose others with --json, --page")
    one_thread()
    extract = extractor_of(request.extractor) if request.samples else None
    saved = load_checkpoint(request.checkpoint)
    shots = request.shots or saved.config.episode.shots
    own = tasks.load(saved.config.data)
    images = own if request.data is None else tasks.load(data_config(saved.config.data, request.data))
    classes, few = choose_classes(images, request.split, shots, request.tasks, request.seed)
    for note in images.notes:
        print(f"note: {note}", file=sys.stderr)
    if few:
        left_out = f"classes of split '{request.split}' with too few images ({len(few)}): {some(few)}"
        print(f"note: {left_out}", file=sys.stderr)
    meta = method_of(saved)
    bench = Bench(images, classes, shots, request.seed)
    if sorter := meta.problem.sorter:
        bench = bench.sorted_by(sorter)
    other = None if request.data is None else images
    # Before anything is measured: images that cannot be compared are refused now, and not after minutes.
    features = Features.of(extract, galleries(bench, request.samples)) if extract is not None else None
    rivals = rivals_of(meta, saved, request.joint, own, other, shots, request.seed)
    workers = request.workers or _worth_starting(len(classes), meta.problem.network.device)
    adapted = min(10, max(request.steps))
    samples: dict[str, Any] | None = None
    rows: list[Row] = []
    with side_by_side(workers) as each:
        losses, sizes = _measure(bench, meta, rivals, request.steps, each)
        if features is not None:
            sampled = rivals if request.sample_rivals else ()
            tuned = {rival.name: rival.start.with_adam(_size_for(sizes[rival.name], adapted)) for rival in sampled}
            makers = {name: Adapted(method, adapted) for name, method in {"meta": meta, **tuned}.items()}
            samples, rows = _sampled(features, makers, adapted, request, each)
    values: dict[str, Any] = {
        "metagen": __version__,
        "checkpoint": pretrained.NAME if request.checkpoint == pretrained.FOLDER else str(request.checkpoint),
        "step": saved.state.step,
        "data": images.name,
        "split": request.split,
        "split_origin": images.split_origin,
        "interval_percent": LEVEL,
        "shots": shots,
        "steps": list(request.steps),
        "seed": request.seed,
        "metric": meta.problem.family.metric,
        "classes": [images.classes[index] for index in classes],
        "categories": {images.classes[index]: bench.category(index) for index in classes},
        "too_few_images": few,
        "step_size_grid": list(STEP_SIZES),
        "methods": report(bench, losses, request.steps),
    }
    for name, chosen in sizes.items():
        values["methods"][name]["step_size"] = {str(k): size for k, size in chosen.items()}
    if samples is not None:
        values["samples"] = samples
    print_tables(values)  # first: what has been measured is not lost if a disk is full
    write_json(target, values)
    write_text(page, html_page(values, rows), "--page")
    _draw(bench, meta, adapted, rows, picture)
    print(f"wrote {target}, {page} and {picture} in {time.monotonic() - started:.0f} s")


def _worth_starting(classes: int, device: torch.device) -> int:
    """Processes that pay: each takes seconds to start, and an accelerator is one for all."""
    return 1 if device.type != "cpu" else min(available_cores(), -(-classes // FEWEST))


def _size_for(sizes: dict[int, float], steps: int) -> float:
    """The step size that was tuned for the nearest number of steps."""
    return sizes[min(sizes, key=lambda k: abs(k - steps))]


def _sampled(
    features: Features, makers: Mapping[str, Maker], steps: int, request: Request, each: Each
) -> tuple[dict[str, Any], list[Row]]:
    """What every maker's images are worth, and rows of the first one's to look at."""
    among = features.galleries
    with progress_bar(each) as shown:
        found: dict[str, Any] = {}
        rows: list[Row] = []
        for name, maker in {**makers, "copycat": Copycat(), "real": Real()}.items():
            made = made_by(maker, among, request.seed, shown(f"{name}: new images", len(among)))
            found[name] = measured(features, made).report(among)
            if not rows:
                rows = [
                    Row(gallery, images, *nearest_real(features, i, images))
                    for i, (gallery, images) in enumerate(zip(among, made, strict=True))
                ]
    counts = {"images": sum(len(g.reference) for g in among), "most_a_class": request.samples}
    return {"steps": steps, "extractor": request.extractor, **counts, "methods": found}, rows


def _draw(bench: Bench, meta: Method, steps: int, rows: Sequence[Row], picture: Path) -> None:
    """``samples.png``: some of the rows there are, or drawn for it."""
    every = slice(None, None, max(1, len(bench.classes) // ROWS))
    drawn_rows = (
        [(row.gallery.name, row.gallery.support, row.made) for row in rows[every]]
        if rows
        else drawn(meta, bench, bench.classes[every][:ROWS], steps, SAMPLES)
    )
    write_picture(
        grid(drawn_rows[:ROWS], titles=("shown", f"generated after {counted(steps, 'step')}")), picture, "--picture"
    )


def data_config(trained: DataConfig, data: Path, polarity: Polarity | None = None) -> DataConfig:
    """The config of another data set in the form that a model was trained on: a source's name or a path.

    ``polarity`` of a folder or an npz; without it, as the model needs it.
    """
    values = {"image_size": trained.image_size, "channels": trained.channels}
    if not data.exists() and (":" in str(data) or str(data) in tasks.REGISTRY):
        return DataConfig.parse({**values, "source": str(data)})
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; give a folder of class folders, an .npz, or a source's name")
    if (data / "images_evaluation.zip").is_file() or (data.is_file() and "omniglot" in data.name):
        return DataConfig.parse({**values, "source": "omniglot", "path": str(data)})
    source = "folder" if data.is_dir() else "npz"
    polarity = polarity or trained.polarity_of_others
    return DataConfig.parse({**values, "source": source, "path": str(data), "polarity": polarity})


def _measure(
    bench: Bench, meta: Method, rivals: Sequence[Rival], steps: Sequence[int], each: Each
) -> tuple[dict[str, Losses], dict[str, dict[int, float]]]:
    losses: dict[str, Losses] = {}
    sizes: dict[str, dict[int, float]] = {}
    with progress_bar(each) as shown:
        losses["meta"] = bench.losses(meta, steps, shown("meta", len(bench.classes)))
        for rival in rivals:
            tuning = shown(f"{rival.name}: tuning", len(STEP_SIZES) * len(rival.tuning.classes))
            sizes[rival.name] = tune(rival.tuning, rival.start, steps, tuning)
            runs = len(set(sizes[rival.name].values())) * len(bench.classes)
            losses[rival.name] = fine_tuned(bench, rival.start, sizes[rival.name], steps, shown(rival.name, runs))
    return losses, sizes


@contextmanager
def progress_bar(each: Each) -> Iterator[Callable[[str, int], Each]]:
    """A bar on stderr while the block runs: ``shown(what, total)`` begins anew and gives an ``each`` that moves it."""
    columns = TextColumn("{task.description:<24}"), BarColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("")

        def advancing(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
            for result in each(function, items):
                progress.advance(bar)
                yield result

        def shown(what: str, total: int) -> Each:
            progress.reset(bar, description=what, total=total)
            return advancing

        yield shown


def home_of(checkpoint: Path) -> Path:
    """Where results lie by default: the run folder, also when one of its checkpoints was named."""
    if checkpoint == pretrained.FOLDER:
        return pretrained.RESULTS
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
