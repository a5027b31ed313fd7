"""What ``metagen evaluate`` does: methods, tables, JSON, page, picture."""

from __future__ import annotations

import json
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
from launch.generators.generation import write_picture
from launch.generators.page import Row, html_page
from launch.generators.rivals import Rival, rivals_of
from launch.generators.tables import print_tables
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
from metagen.metrics.extractor import Extractor
from metagen.picture import grid
from metagen.pool import available_cores, one_thread
from metagen.processes import A, B, Each, side_by_side
from metagen.quality import Features, measured, nearest_real
from metagen.tasks.config import DataConfig

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
        print(f"note: {len(few)} classes of split '{request.split}' have too few images: {', '.join(few[:5])}")
    meta = method_of(saved)
    bench = Bench(images, classes, shots, request.seed)
    if sorter := meta.problem.sorter:
        bench = bench.sorted_by(sorter)
    other = None if request.data is None else images
    rivals = rivals_of(meta, saved, request.joint, own, other, shots, request.seed)
    workers = request.workers or _worth_starting(len(classes), meta.problem.network.device)
    adapted = min(10, max(request.steps))
    samples: dict[str, Any] | None = None
    rows: list[Row] = []
    with side_by_side(workers) as each:
        losses, sizes = _measure(bench, meta, rivals, request.steps, each)
        if extract is not None:
            sampled = rivals if request.sample_rivals else ()
            tuned = {rival.name: rival.start.with_adam(_size_for(sizes[rival.name], adapted)) for rival in sampled}
            makers = {name: Adapted(method, adapted) for name, method in {"meta": meta, **tuned}.items()}
            samples, rows = _sampled(bench, makers, adapted, request, extract, each)
    home = home_of(request.checkpoint)
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
    picture = request.picture or home / "samples.png"
    _draw(bench, meta, adapted, rows, picture)
    target = request.json_file or home / "evaluation.json"
    page = request.page or target.with_suffix(".html")
    write_text(page, html_page(values, rows), "--page" if request.page else "--json")
    write_json(target, values)
    print_tables(values)
    print(f"wrote {target}, {page} and {picture} in {time.monotonic() - started:.0f} s")


def _worth_starting(classes: int, device: torch.device) -> int:
    """Processes that pay: each takes seconds to start, and an accelerator is one for all."""
    return 1 if device.type != "cpu" else min(available_cores(), -(-classes // FEWEST))


def _size_for(sizes: dict[int, float], steps: int) -> float:
    """The step size that was tuned for the nearest number of steps."""
    return sizes[min(sizes, key=lambda k: abs(k - steps))]


def _sampled(
    bench: Bench, makers: Mapping[str, Maker], steps: int, request: Request, extract: Extractor, each: Each
) -> tuple[dict[str, Any], list[Row]]:
    """What every maker's images are worth, and rows of the first one's to look at."""
    among = galleries(bench, request.samples)
    features = Features.of(extract, among)
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
    write_picture(grid(drawn_rows[:ROWS], titles=("shown", f"generated after {steps} steps")), picture, "--picture")


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
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")

        def advancing(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
            for result in each(function, items):
                progress.advance(bar)
                yield result

        def shown(what: str, total: int) -> Each:
            progress.reset(bar, description=what, total=total)
            return advancing

        yield shown


def write_json(target: Path, values: dict[str, Any]) -> None:
    """Write figures atomically; raises ``UserError`` if the file cannot be written."""
    write_text(target, json.dumps(values, indent=1), "--json")


def write_text(target: Path, text: str, option: str) -> None:
    """Write a file atomically; raises ``UserError`` naming the command's ``option`` if it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}): choose another with {option}") from None


def home_of(checkpoint: Path) -> Path:
    """Where results lie by default: the run folder, also when one of its checkpoints was named."""
    if checkpoint == pretrained.FOLDER:
        return pretrained.RESULTS
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
