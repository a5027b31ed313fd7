"""Does a meta-trained GAN collapse when it is adapted to a handful of images, as one trained on them alone does?

    python benchmarks/gan_stability.py [--seeds 0,1,2] [--classes 6] [--run-dir runs/gan-stability]

Trains the preset ``gan`` for each seed, then adapts two networks of that architecture to ``K`` images of classes
never seen, by the same inner loop, the same images and the same noise: the meta-trained one, and one at its
initial weights (training from scratch on those images). Adam's step size is tuned for each of the two by the
energy score after the last step, on validation classes. Along the way it measures

- diversity: mean distance between two samples over that between two real images (0: collapse),
- coverage: the share of real images with a sample near them (Naeem et al. 2020), beside what a perfect generator
  would get from as many samples,
- the energy score,

all against the class's images that were not shown. It writes results/gan_stability.json and
docs/images/gan_stability.png. What an earlier call finished is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import write
from torch import Tensor
from training import seconds, trained

from metagen import tasks
from metagen.bootstrap import interval
from metagen.checkpoint import Checkpoint, load_checkpoint
from metagen.evaluate import Bench, Method, choose_classes, method_of
from metagen.generators import Condition
from metagen.metrics.coverage import coverage, perfect_coverage
from metagen.metrics.diversity import diversity
from metagen.metrics.energy import energy_score
from metagen.metrics.pyramid import pyramid
from metagen.picture import grid
from metagen.pool import one_thread
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode

ROOT = Path(__file__).parent.parent
STEPS = (0, 5, 10, 20, 50, 100, 200)
STEP_SIZES = (3e-5, 2e-4, 1e-3)
SAMPLES, SHOWN, ROWS, TUNING = 30, 6, 3, 2
SHOWN_AT = (0, 20, 200)
NEIGHBOURS = 3
STARTS = ("meta", "scratch")


def start_of(name: str, saved: Checkpoint) -> Method:
    """The meta-trained network, or the same at its initial weights."""
    method = method_of(saved)
    return method if name == "meta" else replace(method, theta=method.problem.network.initial.clone())


def samples(method: Method, parameters: Tensor, episode: Episode) -> Tensor:
    """``[SAMPLES, C, H, W]``, from the same latents at every step and for both networks."""
    network = method.problem.network
    network.load(parameters)
    condition = Condition.of_tasks(episode.support[None])
    rng = torch_generator("gan stability", episode.class_name)
    return method.problem.family.sample(network.module, condition, SAMPLES, rng)[0]


def along(method: Method, episode: Episode, steps: tuple[int, ...], seed: int) -> Iterator[tuple[int, Tensor]]:
    """Samples after each of ``steps`` inner steps on the episode's support images."""
    rng = torch_generator(seed, "adaptation", episode.class_name)
    for k, parameters in method.adapted(episode.support, steps, rng):
        yield k, samples(method, parameters, episode)


def figures(made: Tensor, real: Tensor) -> dict[str, float]:
    """What is measured of samples of one class, against real images that were not shown."""
    return {
        "diversity": diversity(pyramid(made), pyramid(real)),
        "coverage": coverage(pyramid(made), pyramid(real), NEIGHBOURS),
        "energy": float(energy_score(real, made[None].expand(len(real), *made.shape)).mean()),
    }


def tuned(method: Method, bench: Bench, seed: int) -> float:
    """Adam's step size with the best energy score after the last step, on the classes of ``bench``."""
    found = {}
    for size in STEP_SIZES:
        ends = [dict(along(method.with_adam(size), e, STEPS[-1:], seed))[STEPS[-1]] for e in episodes(bench)]
        scores = [figures(made, e.query)["energy"] for made, e in zip(ends, episodes(bench), strict=True)]
        found[size] = float(np.mean(scores))
    return min(found, key=lambda size: found[size])


def episodes(bench: Bench) -> list[Episode]:
    return [bench.episode(index) for index in bench.classes]


def measure(saved: Checkpoint, seed: int, classes: int, keep: Path) -> dict[str, Any]:
    """Both networks' figures for one seed; each is kept in a file of its own as it ends."""
    images, shots = tasks.load(saved.config.data), saved.config.episode.shots
    tuning = Bench(images, choose_classes(images, "valid", shots, TUNING, seed)[0], shots, seed)
    bench = Bench(images, choose_classes(images, "test", shots, classes, seed)[0], shots, seed)
    out: dict[str, Any] = {}
    for name in STARTS:
        path = keep / f"{name}-{classes}.json"
        if not path.exists():
            method = start_of(name, saved)
            size = tuned(method, tuning, seed)
            table: dict[str, dict[str, list[float]]] = {str(k): {} for k in STEPS}
            for episode in episodes(bench):
                for k, made in along(method.with_adam(size), episode, STEPS, seed):
                    for metric, value in figures(made, episode.query).items():
                        table[str(k)].setdefault(metric, []).append(value)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({"step_size": size, "per_class": table}))
            partial.replace(path)
        out[name] = json.loads(path.read_text())
    queries = [len(e.query) for e in episodes(bench)]
    out["perfect_coverage"] = float(np.mean([perfect_coverage(SAMPLES, n, NEIGHBOURS) for n in queries]))
    out["classes"] = [images.classes[index] for index in bench.classes]
    return out


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over all classes and seeds, with bootstrap intervals over the classes of all seeds."""
    return {
        name: {
            metric: {
                str(k): interval(np.concatenate([np.array(f[name]["per_class"][str(k)][metric]) for f in found]))
                for k in STEPS
            }
            for metric in ("diversity", "coverage", "energy")
        }
        for name in STARTS
    }


def picture(saved: Checkpoint, found: dict[str, Any], seed: int, target: Path) -> None:
    """Samples of some classes at the start, on the way and at the end, of both networks."""
    images, shots = tasks.load(saved.config.data), saved.config.episode.shots
    bench = Bench(images, tuple(images.classes.index(name) for name in found["classes"][:ROWS]), shots, seed)
    rows = []
    for episode in episodes(bench):
        for name in STARTS:
            method = start_of(name, saved).with_adam(found[name]["step_size"])
            at = dict(along(method, episode, SHOWN_AT, seed))
            rows.append(
                (f"{name}: {episode.class_name}", episode.support, torch.cat([at[k][:SHOWN] for k in SHOWN_AT]))
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    titles = ("shown", f"generated after {', '.join(map(str, SHOWN_AT[:-1]))} and {SHOWN_AT[-1]} steps, {SHOWN} each")
    grid(rows, titles=titles, scale=2).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="gan")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--steps", type=int, help="outer steps of training; the preset's by default")
    parser.add_argument("--pool", default="ray")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/gan-stability"))
    options = parser.parse_args()
    one_thread()
    found, took, steps = [], [], 0
    for seed in map(int, options.seeds.split(",")):
        run = options.run_dir / f"seed{seed}"
        asked = ["--seed", str(seed), "--set", "generator.options.temperature=1.0"]  # samples as the losses draw them
        asked += ["--steps", str(options.steps)] if options.steps else []
        saved = load_checkpoint(trained(options.preset, run, *asked, workers=("--pool", options.pool)))
        steps = saved.state.step
        found.append(measure(saved, seed, options.classes, run))
        took.append(seconds(run))
        if len(found) == 1:
            picture(saved, found[0], seed, ROOT / "docs" / "images" / "gan_stability.png")
        print(f"seed {seed} done", flush=True)
    path = write(
        "gan_stability",
        {
            "preset": options.preset,
            "outer_steps": steps,
            "training_seconds": took,
            "seeds": options.seeds,
            "inner_steps": list(STEPS),
            "samples": SAMPLES,
            "neighbours": NEIGHBOURS,
            "perfect_coverage": float(np.mean([f["perfect_coverage"] for f in found])),
            "step_sizes": {name: [f[name]["step_size"] for f in found] for name in STARTS},
            "classes": [f["classes"] for f in found],
            "figures": summary(found),
        },
    )
    figures_of = json.loads(path.read_text())["figures"]
    for metric in ("diversity", "coverage", "energy"):
        for name in STARTS:
            cells = " ".join(f"{k}: {figures_of[name][metric][str(k)]['mean']:.3f}" for k in STEPS)
            print(f"{metric:<10}{name:<8}{cells}")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
