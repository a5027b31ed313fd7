"""What a run writes for people to look at as it goes: TensorBoard's events, and a picture of unseen classes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from metagen.evaluate import MIN_QUERIES, Bench, Method, choose_classes, drawn
from metagen.picture import grid, pixels
from metagen.records import StepReport, Verdict
from metagen.state import MetaState
from metagen.work import Parts

CLASSES, SAMPLES = 6, 6
"""Unseen classes, and images of each, in the grids."""
BLIND_STEPS = 10
"""Inner steps before a network draws that is not shown the support set: without any it knows nothing of the class."""
PICTURE = "unseen_classes.png"
"""The newest grid, in the run folder."""


class Board:
    """Writes step reports, policy histograms and image grids into a run folder; use as a context manager."""

    def __init__(self, folder: Path, parts: Parts, step: int) -> None:
        self.parts = parts
        self.picture = folder / PICTURE
        # Steps after the checkpoint that a run resumes from are written again: hide the earlier ones.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self.bench = self._bench()
        steps = parts.config.steps
        every = parts.config.log.images_every or -(-steps // 4)
        self.image_steps = {*range(every, steps + 1, every), steps}
        self.histogram_every = max(1, steps // 50)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.writer.close()

    def write(self, report: StepReport, state: MetaState) -> None:
        """Write one step and, where due, what the policy and the images look like."""
        add, step = self.writer.add_scalar, report.step
        add("outer/loss", report.loss, step)
        add("outer/learning_rate", report.learning_rate, step)
        add("outer/gradient_norm", report.gradient_norm, step)
        for name, value in report.metrics.items():
            if name != "loss":
                add(name if name.startswith("policy/") else f"inner/{name}", value, step)
        for name, numbers in report.samples.items():
            self.writer.add_histogram(f"policy/{name}", np.array(numbers), step)
        for verdict in Verdict:
            add(f"results/{verdict}", state.counts.get(verdict, 0), step)
        add("results/rollbacks", report.rollbacks, step)
        add("pool/workers", report.workers, step)
        for event, count in report.events.items():
            add(f"pool/{event}", count, step)
        ages = [one.age for one in report.outcomes]
        add("staleness/mean", sum(ages) / len(ages), step)
        add("staleness/max", max(ages), step)
        if step % self.histogram_every == 0 or step == report.steps:
            self.writer.add_histogram("staleness/age", np.array(ages), step)
        for part, seconds in report.seconds.items():
            add(f"seconds/{part}", seconds, step)
        add("rate/tasks_per_second", report.tasks / report.seconds["total"], step)
        if step % self.histogram_every == 0 or step == report.steps:
            described = self.parts.policy.describe(state.policy, self.parts.problem.network.layout)
            for name, values in described.items():
                self.writer.add_histogram(f"policy/{name}", values.numpy().ravel(), step)
        if step in self.image_steps and self.bench:
            self._images(state, step)

    def _bench(self) -> Bench | None:
        """The fixed unseen classes to draw: of the validation split, so that test stays unread; of test where that has
        none; None if neither has any."""
        config, images = self.parts.config, self.parts.images
        need = config.episode.shots + MIN_QUERIES
        split = "valid" if len(images.members("valid", need)) else "test"
        if not len(images.members(split, need)):
            return None
        classes, _ = choose_classes(images, split, config.episode.shots, CLASSES, seed=0)
        return Bench(images, classes, config.episode.shots, seed=0)

    def _images(self, state: MetaState, step: int) -> None:
        assert self.bench is not None
        device = self.parts.problem.network.device
        method = Method(self.parts.problem, state.mean.to(device), self.parts.policy, state.policy.to(device))
        steps = BLIND_STEPS if self.parts.config.generator.architecture.set_conditioning == "none" else 0
        rows = drawn(method, self.bench, self.bench.classes, steps, SAMPLES)
        picture = grid(rows, titles=("shown", f"generated after {steps} inner steps" if steps else "generated"))
        self.writer.add_image("unseen_classes", pixels(picture), step)
        partial = self.picture.with_suffix(".partial")
        picture.save(partial, "png")
        partial.replace(self.picture)
