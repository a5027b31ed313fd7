"""The few-shot benchmark: a preset against its rivals, on classes never seen, at equal compute.

    train      every model of every seed, one process each; models that are tuned, first a tenth of every candidate
    measure    every contender of every seed on every data set, once its model is trained: losses, the speed-up's
               curves, new images
    summarise  means over seeds and classes with intervals, differences, verdicts

Each piece is kept in a file of its own below ``out``, and what is there is not done again: what was stopped goes on.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launch.benchmarks.contenders import CONTENDERS, Contender, losses_at, tuned_sizes
from launch.benchmarks.models import MODELS, at_equal_compute, passes_of
from launch.benchmarks.speedup import HORIZON, STEPS, curve
from launch.preset import load_config
from launch.training import run_folder
from launch.training.session import proceed, start
from launch.training.workers import Workers
from metagen import tasks, work
from metagen.checkpoint import FINAL, load_checkpoint
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.evaluate import Bench, Method, choose_classes, method_of
from metagen.guard import Diverged
from metagen.makers import Adapted, Copycat, Maker, Real, galleries, made_by
from metagen.metrics import extractor_of
from metagen.pool import one_thread
from metagen.processes import executor
from metagen.quality import Features, measured
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import ImageSet

OWN, OMNIGLOT = "own", "omniglot"
BENCH_SEED, ADAPTED, SHORT = 0, 10, 0.1
RIVALS_IN_TIME = ("joint", "conditioned")
"""Baselines that the speed-up is taken against."""
LONGEST = "reptile-figr"
"""The model whose steps are the smallest, so that it has the most of them: begun first, not to be waited for."""
FLOORS: dict[str, Callable[[], Maker]] = {"copycat": Copycat, "real": Real}


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    preset: str
    assignments: tuple[str, ...]
    seeds: int
    out: Path
    domains: tuple[str, ...]
    omniglot: Path | None
    """A local file or folder; None to download it."""
    shots: tuple[int, ...]
    """The first is the one that new images and the speed-up are taken at."""
    steps: tuple[int, ...]
    classes: int
    curve_classes: int
    sample_classes: int
    samples: int
    tuning_classes: int
    workers: int

    def config(self, seed: int) -> RunConfig:
        """The preset for one seed, with all of its steps, whatever time they take."""
        config = load_config(self.preset, self.assignments, None, seed)
        if config.start_from is not None:
            raise UserError("start_from: the rivals are trained from nothing, and so must this be: leave it out")
        return config.model_copy(update={"budget": None})

    def data(self, domain: str) -> DataConfig:
        """Where a domain's images come from, in the form that the preset trains on."""
        own = self.config(0).data
        if domain == OWN:
            return own
        form = {"image_size": own.image_size, "channels": own.channels}
        path = None if self.omniglot is None else str(self.omniglot)
        return DataConfig.parse({**form, "source": domain, "path": path})

    def bench(self, images: ImageSet, split: str, shots: int, classes: int) -> Bench:
        """The same classes and images for every contender and every seed of training."""
        return Bench(images, choose_classes(images, split, shots, classes, BENCH_SEED)[0], shots, BENCH_SEED)


@dataclass(frozen=True)
class Job:
    """Something to do, and what can be done after it."""

    do: Callable[[], str]
    then: tuple[Job, ...] = ()


def check(plan: Plan) -> None:
    """Raise ``UserError`` for what could not be measured; nothing is written."""
    for domain in plan.domains:  # before hours of training: is there data to test on?
        plan.bench(tasks.load(plan.data(domain)), "test", max(plan.shots), 1)
    if 0 not in plan.steps or ADAPTED not in plan.steps:
        raise UserError(f"--steps: 0 and {ADAPTED} have to be among them")


def run(plan: Plan) -> None:
    """Train and measure what is not there yet."""
    config = plan.config(0)
    passes = passes_of(config)
    tuned = [name for name, model in MODELS.items() if len(model.candidates(config)) > 1]
    everyone = range(plan.seeds)
    _all(
        plan,
        [Job(partial(_candidate, plan, s, n, i, passes)) for n in tuned for s in everyone for i in _count(n, config)],
    )
    trainings = sorted((name for name, model in MODELS.items() if model.trained), key=LONGEST.__ne__)
    jobs = [Job(partial(_train, plan, s, n, passes), _measurements(plan, s, n)) for n in trainings for s in everyone]
    floors = [Job(partial(_measure, plan, s, n, d)) for n in FLOORS for d in plan.domains for s in everyone]
    _all(plan, [*jobs, *floors])


def _measurements(plan: Plan, seed: int, model: str) -> tuple[Job, ...]:
    """All that is measured once ``model`` is trained; of a network from scratch, once its precision is known."""
    ready = {model, *(name for name, one in MODELS.items() if not one.trained and model == "joint")}
    names = [name for name, contender in CONTENDERS.items() if contender.model in ready]
    return tuple(Job(partial(_measure, plan, seed, name, domain)) for name in names for domain in plan.domains)


def _count(name: str, config: RunConfig) -> range:
    return range(len(MODELS[name].candidates(config)))


def _all(plan: Plan, jobs: Sequence[Job]) -> None:
    """Do all jobs and what follows on them, here or each in a process; raises the first error, after those that run
    have ended."""
    if plan.workers == 1:
        waiting = deque(jobs)
        while waiting:
            job = waiting.popleft()
            print(job.do(), flush=True)
            waiting.extend(job.then)
        return
    with executor(plan.workers) as pool:
        under_way = {pool.submit(job.do): job for job in jobs}
        done, count = 0, len(jobs) + sum(len(job.then) for job in jobs)
        while under_way:
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                done += 1
                print(f"{done}/{count} {future.result()}", flush=True)
                under_way |= {pool.submit(job.do): job for job in under_way.pop(future).then}


def folder_of(plan: Plan, seed: int, model: str) -> Path:
    """The run folder of a model."""
    return plan.out / f"seed{seed}" / "models" / model


def _trained(config: RunConfig, folder: Path) -> None:
    """Train ``config`` in ``folder``, or go on with what is there; what it prints goes to a file beside it."""
    if (folder / "checkpoints" / FINAL).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    workers = Workers.choose(config, "serial", None, None)
    # In this process: one of its own would go on alone if this one were killed, and be in the way of who comes after.
    try:
        with folder.with_suffix(".log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            if (folder / run_folder.CONFIG).exists():
                proceed(folder, workers)
            else:
                start(config, folder, workers)
    except UserError as error:
        error.args = (f"{folder}: {error}",)
        raise


def _candidate(plan: Plan, seed: int, model: str, number: int, passes: float) -> str:
    """A tenth of a candidate's training, and its loss on validation classes after tuned adaptation."""
    one_thread()
    folder = folder_of(plan, seed, f"{model}-candidate{number}")
    path = folder.with_suffix(".json")
    if not path.exists():
        config = at_equal_compute(MODELS[model].candidates(plan.config(seed))[number], SHORT * passes)
        try:
            _trained(config, folder)
        except Diverged:
            _write(path, {"loss": None})
            return f"seed {seed}: {model}, candidate {number} diverged"
        [contender] = [c for c in CONTENDERS.values() if c.model == model]
        start = method_of(load_checkpoint(folder))
        tuning = plan.bench(tasks.load(config.data), "valid", plan.shots[0], plan.tuning_classes)
        sizes = tuned_sizes(contender, start, tuning, [ADAPTED])
        _write(path, {"loss": float(losses_at(contender, start, tuning, sizes, [ADAPTED]).mean())})
    return f"seed {seed}: {model}, candidate {number}"


def _train(plan: Plan, seed: int, model: str, passes: float) -> str:
    one_thread()
    candidates = MODELS[model].candidates(plan.config(seed))
    best = 0
    if len(candidates) > 1:
        found = [folder_of(plan, seed, f"{model}-candidate{i}").with_suffix(".json") for i in range(len(candidates))]
        losses = {i: json.loads(path.read_text())["loss"] for i, path in enumerate(found)}
        left = {i: loss for i, loss in losses.items() if loss is not None}
        if not left:
            raise UserError(f"every candidate of {model} diverged: see {found[0].parent}")
        best = min(left, key=left.__getitem__)
    config = candidates[best] if model == "meta" else at_equal_compute(candidates[best], passes)
    _trained(config, folder_of(plan, seed, model))
    return f"seed {seed}: {model} trained"


def start_of(plan: Plan, seed: int, model: str) -> Method:
    """Where a contender's inner loop starts."""
    if MODELS[model].trained:
        return method_of(load_checkpoint(folder_of(plan, seed, model)))
    # In the precision that the others were found to be fastest in.
    precision = load_checkpoint(folder_of(plan, seed, "joint")).config.precision
    [config] = MODELS[model].candidates(plan.config(seed))
    config = config.model_copy(update={"precision": precision})
    problem, policy = work.build_problem(config), work.build_policy(config)
    network = problem.network
    return Method(problem, network.initial.clone(), policy, policy.initial(network.layout))


def shots_of(plan: Plan, contender: Contender) -> tuple[int, ...]:
    """The numbers of images shown that a contender is measured at."""
    return plan.shots if contender.all_shots else plan.shots[:1]


def piece(plan: Plan, kind: str, seed: int, name: str, domain: str, shots: int) -> Path:
    """Where one measurement is kept."""
    return plan.out / f"seed{seed}" / kind / f"{name}-{domain}-{shots}.json"


def _measure(plan: Plan, seed: int, name: str, domain: str) -> str:
    """All that is measured of a contender on a data set."""
    one_thread()
    images = tasks.load(plan.data(domain))
    if name in FLOORS:
        _samples(plan, seed, name, domain, images, FLOORS[name]())
        return f"seed {seed}: {name} on {domain}"
    contender = CONTENDERS[name]
    tuning_images = images if contender.oracle else tasks.load(plan.data(OWN))
    start = start_of(plan, seed, contender.model)
    for shots in shots_of(plan, contender):
        path = piece(plan, "losses", seed, name, domain, shots)
        if not path.exists():
            tuning = plan.bench(tuning_images, "valid", shots, plan.tuning_classes)
            sizes = tuned_sizes(contender, start, tuning, plan.steps)
            losses = losses_at(contender, start, plan.bench(images, "test", shots, plan.classes), sizes, plan.steps)
            _write(path, {"sizes": [sizes[k] for k in plan.steps], "losses": losses.tolist()})
    shots = plan.shots[0]
    path = piece(plan, "curve", seed, name, domain, shots)
    if name in (*RIVALS_IN_TIME, "meta") and not path.exists():
        tuning = plan.bench(tuning_images, "valid", shots, plan.tuning_classes)
        size = tuned_sizes(contender, start, tuning, STEPS, best_within=True)[HORIZON]
        found = curve(plan.bench(images, "test", shots, plan.curve_classes), contender.method(start, size), STEPS)
        _write(path, {"size": size, "losses": found.losses.tolist(), "seconds": found.seconds})
    sizes = json.loads(piece(plan, "losses", seed, name, domain, shots).read_text())["sizes"]
    method = contender.method(start, sizes[plan.steps.index(ADAPTED)])
    _samples(plan, seed, name, domain, images, Adapted(method, ADAPTED))
    return f"seed {seed}: {name} on {domain}"


def _samples(plan: Plan, seed: int, name: str, domain: str, images: ImageSet, maker: Maker) -> None:
    path = piece(plan, "samples", seed, name, domain, plan.shots[0])
    if path.exists():
        return
    among = galleries(plan.bench(images, "test", plan.shots[0], plan.sample_classes), plan.samples)
    made = made_by(maker, among, seed)
    _write(path, measured(Features.of(extractor_of(), among), made).report(among))


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}")
    partial_file.write_text(json.dumps(values))
    partial_file.replace(path)
