"""What ``metagen adapt`` and ``metagen sample`` do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from launch.output import check_picture, write_picture
from metagen import tasks
from metagen.checkpoint import load_checkpoint, publishing
from metagen.errors import UserError
from metagen.evaluate import Bench, choose_classes, drawn, generate, method_of
from metagen.picture import grid, save_image
from metagen.pool import one_thread
from metagen.tasks.config import DataConfig
from metagen.tasks.episodes import to_float
from metagen.wording import counted

MOST_SHOWN = 64
"""More images than this add nothing to the set's mean that is worth the time."""


def adapt_to_folder(checkpoint: Path, images_dir: Path, steps: int, samples: int, out: Path | None, seed: int) -> None:
    """Adapt to the images of one class in ``images_dir``; write new ones and ``grid.png`` to ``out``."""
    started = time.monotonic()
    one_thread()
    saved = load_checkpoint(checkpoint)
    out = out or default_out(images_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: choose another --out")
    trained = saved.config.data
    config = DataConfig.parse(
        {
            "source": "folder",
            "path": str(images_dir),
            "image_size": trained.image_size,
            "channels": trained.channels,
            "polarity": trained.polarity_of_others,
        }
    )
    shown = tasks.load_class_folder(images_dir, config)
    for note in shown.notes:
        print(f"note: {note}", file=sys.stderr)
    support = to_float(shown.images[:MOST_SHOWN])
    if len(shown.images) > MOST_SHOWN:
        print(f"note: the first {MOST_SHOWN} of {len(shown.images)} images are used", file=sys.stderr)
    method = method_of(saved)
    if steps and not method.problem.share_of_step(len(support), method.vector):
        print("note: one image is too few to adapt to: it is shown to the generator as it is", file=sys.stderr)
        steps = 0
    made = generate(method, support, steps, samples, seed, "adapt")
    if made.isnan().any():
        raise UserError(
            f"{checkpoint}: after {counted(steps, 'inner step')} its images are no numbers: try fewer --steps"
        )
    if shown.inverted:  # give the images back in the user's own polarity
        support, made = -support, -made
    with publishing(out) as folder:
        for i, image in enumerate(made):
            save_image(image, folder / f"{i:03d}.png")
        grid(
            [("", support[:10], made[:10]), *(("", support[:0], made[i : i + 10]) for i in range(10, samples, 10))]
        ).save(folder / "grid.png")
    took = f"{counted(steps, 'step')}, {time.monotonic() - started:.1f} s"
    print(f"{counted(samples, 'new image')} and grid.png in {out} ({took})")


def default_out(images_dir: Path) -> Path:
    """``NAME-generated`` in the folder where one works. Not beside the images: beside class folders it would be a class
    of their data set."""
    return Path(f"{Path(os.path.abspath(images_dir)).name}-generated")  # abspath: '.' and '..' have names too


def sample_classes_to_file(
    checkpoint: Path, split: str, classes: int, samples: int, shots: int | None, steps: int, out: Path, seed: int
) -> None:
    """Draw classes of the checkpoint's own data set into one picture."""
    check_picture(out, "--out")
    one_thread()
    saved = load_checkpoint(checkpoint)
    images = tasks.load(saved.config.data)
    shots = shots or saved.config.episode.shots
    chosen, _ = choose_classes(images, split, shots, classes, seed)
    bench, method = Bench(images, chosen, shots, seed), method_of(saved)
    write_picture(grid(drawn(method, bench, chosen, steps, samples)), out, "--out")
    print(f"wrote {out}")
