"""Does a meta-trained GAN collapse when it is adapted to a handful of images, as one trained on them alone does?

    python benchmarks/gan_stability.py [--seeds 0,1,2] [--classes 6] [--run-dir runs/gan-stability]

Trains the preset ``gan`` for each seed, then adapts two networks of that architecture to ``K`` images of classes
never seen, by the same inner loop, the same images and the same noise: the meta-trained one, and one at its
initial weights (training from scratch on those images). Adam's step size is tuned for each of the two by the
energy score after the last step, on validation classes; what the other step sizes lead to is kept too. Along the way
it measures

- diversity: mean distance between two samples over that between two real images (0: collapse),
- coverage: the share of real images with a sample near them (Naeem et al. 2020), beside what a perfect generator
  would get from as many samples,
- the energy score,

all against the class's images that were not shown, on samples at temperature 1, as the losses draw them. It writes
results/gan_stability.json and docs/images/gan_stability.png. What an earlier call finished is not done again.
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
from metagen.config import RunConfig
from metagen.evaluate import Bench, Method, choose_classes, method_of
from metagen.generators import Condition
from metagen.metrics.coverage import coverage, perfect_coverage
from metagen.metrics.diversity import diversity
from metagen.metrics.energy import energy_score
from metagen.metrics.pyramid import pyramid
from metagen.picture import grid
from metagen.pool import one_thread
from metagen.processes import executor
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode
from metagen.values import override

ROOT = Path(__file__).parent.parent
STEPS = (0, 5, 20, 50, 100, 200, 500)
STEP_SIZES = (3e-5, 2e-4, 1e-3)
SAMPLES, SHOWN, ROWS, TUNING = 30, 6, 3, 2
SHOWN_AT = (0, 50, 500)
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


def tuning(method: Method, bench: Bench, seed: int) -> dict[float, dict[str, float]]:
    """What each of Adam's step sizes leads to after the last step: means over the classes of ``bench``."""
    found = {}
    for size in STEP_SIZES:
        ends = [dict(along(method.with_adam(size), e, STEPS[-1:], seed))[STEPS[-1]] for e in episodes(bench)]
        each = [figures(made, e.query) for made, e in zip(ends, episodes(bench), strict=True)]
        found[size] = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    return found


def episodes(bench: Bench) -> list[Episode]:
    return [bench.episode(index) for index in bench.classes]


def measure(name: str, final: Path, seed: int, classes: int) -> dict[str, Any]:
    """One network's figures for one seed, kept in a file beside the run's config, and samples to show in another."""
    path = final.parent.parent / f"{name}-{classes}.json"
    if not path.exists():
        one_thread()
        saved = load(final)
        method = start_of(name, saved)
        tried = tuning(method, bench_of(saved, "valid", TUNING, seed), seed)
        size = min(tried, key=lambda size: tried[size]["energy"])
        table: dict[str, dict[str, list[float]]] = {str(k): {} for k in STEPS}
        drawn: list[Tensor] = []
        for episode in episodes(bench_of(saved, "test", classes, seed)):
            made = dict(along(method.with_adam(size), episode, STEPS, seed))
            drawn.append(torch.cat([made[k][:SHOWN] for k in SHOWN_AT]))
            for k in STEPS:
                for metric, value in figures(made[k], episode.query).items():
                    table[str(k)].setdefault(metric, []).append(value)
        np.save(path.with_suffix(".npy"), torch.stack(drawn[:ROWS]).numpy())
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"step_size": size, "tuning": tried, "per_class": table}))
        partial.replace(path)
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def load(final: Path) -> Checkpoint:
    """A trained GAN that samples as its losses draw: the preset's temperature is for looks."""
    saved = load_checkpoint(final)
    config = override(saved.config.model_dump(mode="json"), ["generator.options.temperature=1.0"])
    return replace(saved, config=RunConfig.parse(config))


def bench_of(saved: Checkpoint, split: str, classes: int, seed: int) -> Bench:
    images, shots = tasks.load(saved.config.data), saved.config.episode.shots
    return Bench(images, choose_classes(images, split, shots, classes, seed)[0], shots, seed)


def both(final: Path, seed: int, classes: int) -> dict[str, Any]:
    """Both networks' figures for one seed, a process each, and what they are measured on."""
    with executor(len(STARTS)) as pool:
        running = {name: pool.submit(measure, name, final, seed, classes) for name in STARTS}
        out: dict[str, Any] = {name: future.result() for name, future in running.items()}
    bench = bench_of(load(final), "test", classes, seed)
    perfect = [perfect_coverage(SAMPLES, len(e.query), NEIGHBOURS) for e in episodes(bench)]
    return {
        **out,
        "perfect_coverage": float(np.mean(perfect)),
        "classes": [bench.images.classes[i] for i in bench.classes],
    }


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


def picture(final: Path, seed: int, classes: int, target: Path) -> None:
    """Samples of some classes at the start, on the way and at the end, of both networks."""
    shown = episodes(bench_of(load(final), "test", classes, seed))[:ROWS]
    drawn = {name: torch.from_numpy(np.load(final.parent.parent / f"{name}-{classes}.npy")) for name in STARTS}
    rows = [(f"{name}: {e.class_name}", e.support, drawn[name][i]) for i, e in enumerate(shown) for name in STARTS]
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
    found, took, steps = [], [], []
    for seed in map(int, options.seeds.split(",")):
        run = options.run_dir / f"seed{seed}"
        asked = ["--seed", str(seed), *(["--steps", str(options.steps)] if options.steps else [])]
        final = trained(options.preset, run, *asked, workers=("--pool", options.pool))
        steps.append(load(final).state.step)
        found.append(both(final, seed, options.classes))
        took.append(seconds(run))
        if len(found) == 1:
            picture(final, seed, options.classes, ROOT / "docs" / "images" / "gan_stability.png")
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
            "tuning": {name: [f[name]["tuning"] for f in found] for name in STARTS},
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
