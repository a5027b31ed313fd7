"""Does one learned policy beat the best single fixed choice, and the best fixed choice for each data set?

    python benchmarks/policy.py --omniglot omniglot28.npz --icons icons2016.npz [--seeds 0,1,2] [--tasks 48] ...
    python benchmarks/policy.py --name policy_ablation --seeds 0 --arms 'recipe,recipe without shift,...'

For each seed it trains the generator of the preset ``policy``; then, on that frozen generator, every arm of
``policy_arms.py``. A grid of fixed (rule, step size, steps) is tuned on validation classes of three data sets
(``policy_domains.py``): the best single choice over all three, and the best for each (the oracle). So is a grid of
fixed choices that relocate drawings as the recipe does. All are tested on test classes of the three. For budgets of 5,
10 and 20 steps it writes the mean losses and paired differences with 95% intervals, bootstrapped over classes (a
class's mean over seeds is one cluster; over all three data sets together each counts alike), to results/NAME.json; and
each arm's difference to the first.

Every piece (a training, a point of the grid on one data set, an arm on one data set) is kept in a file of its own in
the run folder: what an earlier call finished is not done again. ``--split valid`` compares arms on validation classes
while a recipe is looked for, and leaves the test classes unread.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import training
from environment import write
from policy_arms import ARMS, PRESET, base_config, trained
from policy_domains import bench, domains
from policy_summary import BUDGETS, RELOCATED, STEPS, summary

from metagen.checkpoint import load_checkpoint
from metagen.evaluate import Bench, Method, method_of
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.pool import available_cores, one_thread
from metagen.processes import executor

GRID = {
    "adam": (1e-5, 3e-5, 1e-4, 3e-4),
    "sign": (3e-6, 1e-5, 3e-5),
    "muon": (3e-5, 1e-4, 3e-4),
    "sgd": (0.01, 0.1),
    "momentum": (0.001, 0.01),
}
"""Rules and step sizes that fixed choices are tuned over, each at every one of ``STEPS``."""
GRID_RELOCATED = {"adam": (3e-5, 1e-4, 3e-4), "sign": (1e-5, 3e-5), "muon": (3e-4,)}
"""The same where they relocate drawings, fewer of them."""


@dataclass(frozen=True)
class Job:
    """One method of one seed on one data set and split."""

    seed: int
    method: str
    """'rule:step size' or 'rule:step size:relocated', or an arm's name."""
    domain: str
    split: str
    count: int

    def path(self, root: Path) -> Path:
        name = f"{self.method}-{self.domain}-{self.split}-{self.count}".replace(" ", "_").replace(":", "-")
        return root / f"seed{self.seed}" / "losses" / f"{name}.json"


def fixed(base: Method, rule: str, size: float, relocate: bool) -> Method:
    """The generator with one rule and one step size."""
    policy = Fixed(FixedOptions(rule=rule, step_size=size))
    return replace(base, problem=replace(base.problem, relocate=relocate), policy=policy, vector=torch.zeros(0))


def measure(job: Job, root: Path, benches: dict[str, Bench], policy_steps: int | None) -> str:
    """Train if need be, and write the losses per class at each of ``STEPS``."""
    one_thread()
    seed = root / f"seed{job.seed}"
    base = seed / "base" / "checkpoints" / "final"
    if job.method in ARMS:
        method = trained(job.method, base, seed / "arms" / job.method.replace(" ", "_"), policy_steps)
    else:
        rule, size, *relocated = job.method.split(":")
        method = fixed(method_of(load_checkpoint(base)), rule, float(size), bool(relocated))
    steps = (0, *BUDGETS) if job.method in ARMS else STEPS
    losses = benches[job.domain].losses(method, steps)
    path = job.path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"steps": steps, "losses": losses.tolist()}))
    partial.replace(path)
    return f"seed {job.seed}, {job.method}, {job.domain} ({job.split})"


def run(jobs: list[Job], root: Path, images: dict[str, Any], workers: int, policy_steps: int | None) -> None:
    """Do what is not done yet, one process a worker; an arm is trained by its first job."""
    waiting = [job for job in jobs if not job.path(root).exists()]
    chains: dict[tuple[int, str], list[Job]] = {}
    for job in waiting:
        chains.setdefault((job.seed, job.method), []).append(job)
    if not chains:
        return
    with executor(workers) as pool:
        futures = [pool.submit(chain, own, root, images, policy_steps) for own in chains.values()]
        for done, future in enumerate(as_completed(futures), start=1):
            print(f"{done}/{len(futures)} {future.result()}", flush=True)


def chain(jobs: list[Job], root: Path, images: dict[str, Any], policy_steps: int | None) -> str:
    """The jobs of one method of one seed."""
    benches = {job.domain: bench(images[job.domain], job.split, job.count) for job in jobs}
    return "; ".join(measure(job, root, benches, policy_steps) for job in jobs)


def train_base(seed: int, root: Path, steps: int | None, workers: int) -> None:
    """The generator of a seed, with one Ray actor a core."""
    training.trained(base_config(seed, steps), root / f"seed{seed}" / "base", workers=("--actors", str(workers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home = os.environ.get
    parser.add_argument("--omniglot", type=Path, default=home("METAGEN_OMNIGLOT"), help="omniglot28.npz")
    parser.add_argument("--icons", type=Path, default=home("METAGEN_ICONS"), help="icons2016.npz")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tasks", type=int, default=48, help="test classes of each data set")
    parser.add_argument("--tuning", type=int, default=16, help="validation classes of each that fixed choices see")
    parser.add_argument("--arms", default=",".join(ARMS), help="names, commas between")
    parser.add_argument("--split", choices=("test", "valid"), default="test")
    parser.add_argument(
        "--name", default="policy", help="of the results: policy_ablation, where many arms are compared"
    )
    parser.add_argument("--base-steps", type=int, help="outer steps of the generator; the preset's by default")
    parser.add_argument("--policy-steps", type=int, help="outer steps of every policy; the preset's by default")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--run-dir", type=Path, default=Path("runs/policy"))
    options = parser.parse_args()
    if options.omniglot is None or options.icons is None:
        parser.error("give --omniglot and --icons, or set METAGEN_OMNIGLOT and METAGEN_ICONS")
    arms = [name.strip() for name in options.arms.split(",")]
    if unknown := set(arms) - set(ARMS):
        parser.error(f"unknown arms {sorted(unknown)}; known: {', '.join(ARMS)}")
    seeds, root = [int(seed) for seed in options.seeds.split(",")], options.run_dir
    for seed in seeds:
        train_base(seed, root, options.base_steps, options.workers)
    images = domains(options.omniglot, options.icons)
    points = [f"{rule}:{size:g}" for rule, sizes in GRID.items() for size in sizes]
    points += [f"{rule}:{size:g}{RELOCATED}" for rule, sizes in GRID_RELOCATED.items() for size in sizes]
    tuning = [Job(s, point, d, "valid", options.tuning) for s in seeds for point in points for d in images]
    test = [Job(s, name, d, options.split, options.tasks) for s in seeds for name in [*arms, *points] for d in images]
    run(tuning, root, images, options.workers, options.policy_steps)

    def losses(jobs: list[Job]) -> dict[tuple[int, str, str], Any]:
        return {(job.seed, job.method, job.domain): json.loads(job.path(root).read_text()) for job in jobs}

    found = summary(losses(tuning), arms, seeds, list(images), None)
    wanted = {(seed, choice["method"]) for seed in seeds for choice in found["choices"][str(seed)]}
    test = [job for job in test if job.method in arms or (job.seed, job.method) in wanted]
    run(test, root, images, options.workers, options.policy_steps)
    found = summary(losses(tuning), arms, seeds, list(images), losses(test))
    figures = {
        "preset": PRESET,
        "seeds": seeds,
        "split": options.split,
        "classes": {name: len(bench(i, options.split, options.tasks).classes) for name, i in images.items()},
        "tuning_classes": options.tuning,
        "grid": {rule: list(sizes) for rule, sizes in GRID.items()},
        "grid_relocated": {rule: list(sizes) for rule, sizes in GRID_RELOCATED.items()},
        **found,
    }
    name = options.name if options.split == "test" else f"{options.name}_valid"
    print(f"wrote {write(name, figures)}")


if __name__ == "__main__":
    main()
