"""How long a user waits for a command: the first lines of help, a first training step, adapting to a folder of images.

    python benchmarks/commands.py [--run runs/quickstart] [--repeats 5]

Every figure is a process as a user starts it, timed from outside; the packaged set is loaded in a new process too,
which says itself how long that took. ``adapt`` runs on one core, with the weights of ``--run``; without one, with those
of a quickstart of a few steps: the time is the same whatever the weights are worth. Writes results/commands.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from environment import write
from PIL import Image

from metagen import tasks
from metagen.tasks.config import DataConfig

ROOT = Path(__file__).parent.parent
METAGEN = [sys.executable, "-m", "launch.cli"]
LOAD = """
import time
from metagen import tasks
from metagen.tasks.config import DataConfig
begun = time.perf_counter()
tasks.load(DataConfig())
print(time.perf_counter() - begun)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}


def seconds(*words: object, cores: int | None = None) -> float:
    """A command's whole time; on the first ``cores`` cores only, if given."""

    def pin() -> None:
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    begun = time.perf_counter()
    done = subprocess.run(
        [*METAGEN, *map(str, words)], env=environment(), capture_output=True, text=True, preexec_fn=pin, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun


def loading() -> float:
    """The packaged set's loading, without the imports before it."""
    return float(
        subprocess.run([sys.executable, "-c", LOAD], env=environment(), capture_output=True, check=True).stdout
    )


def first_step(folder: Path, *options: str) -> float:
    """From ``metagen train quickstart`` to its first step in the run's log; the run is then stopped."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*METAGEN, "train", "quickstart", "--run-dir", str(folder), *options],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "log.jsonl"
    try:
        while not (log.exists() and '"event": "step"' in log.read_text()):
            if process.poll() is not None:
                assert process.stderr is not None
                raise SystemExit(f"no first step came: {process.stderr.read()}")
            time.sleep(0.02)
        return time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def images_of_one_class(folder: Path) -> Path:
    """Five packaged images of a class that no training sees, as files."""
    folder.mkdir()
    images = tasks.load(DataConfig())
    member = int(images.members("test")[0])
    first = int(images.offsets[member])
    for number, image in enumerate(np.asarray(images.images[first : first + 5])):
        Image.fromarray(image[0]).save(folder / f"{number}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    repeats = range(options.repeats)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = options.run
        if run is None:
            run = folder / "run"
            seconds("train", "quickstart", "--steps", 4, "--run-dir", run, "--pool", "serial")
        shown = images_of_one_class(folder / "shown")
        found = {
            "help_seconds": [seconds("--help") for _ in repeats],
            "train_help_seconds": [seconds("train", "--help") for _ in repeats],
            "packaged_set_seconds": [loading() for _ in repeats],
            "first_step_ray_seconds": [first_step(folder / f"ray{i}") for i in repeats],
            "first_step_serial_seconds": [first_step(folder / f"serial{i}", "--pool", "serial") for i in repeats],
            "adapt_one_core_seconds": [
                seconds("adapt", run, shown, "--out", folder / f"new{i}", cores=1) for i in repeats
            ],
        }
    figures = {
        "preset": "quickstart",
        **{name: {"median": statistics.median(each), "each": each} for name, each in found.items()},
    }
    print(json.dumps({name: round(statistics.median(each), 2) for name, each in found.items()}, indent=1))
    print(f"wrote {write('commands', figures)}")


if __name__ == "__main__":
    main()
