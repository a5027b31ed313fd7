"""What a trial is judged by: query loss after adaptation, on validation classes. Test classes are never read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from metagen.evaluate import Bench, Method, choose_classes
from metagen.search.config import JudgeConfig
from metagen.seeding import torch_generator
from metagen.tasks.imageset import ImageSet

SPLIT = "valid"
TIMED = 3


@dataclass(frozen=True)
class Judge:
    """The frozen question that all trials are asked: the same classes, images and noise."""

    bench: Bench
    steps: int

    @staticmethod
    def of(config: JudgeConfig, images: ImageSet, shots: int) -> Judge:
        """Raises ``UserError`` if no validation class has enough images."""
        shots = config.shots or shots
        classes, _ = choose_classes(images, SPLIT, shots, config.classes, config.seed)
        return Judge(Bench(images, classes, shots, config.seed), config.steps)

    def losses(self, method: Method) -> tuple[float, float]:
        """Mean query loss before adaptation, and after ``steps`` of it."""
        wanted = sorted({0, self.steps})
        table = self.bench.losses(method, wanted).mean(0)
        return float(table[0]), float(table[-1])

    def latency(self, method: Method) -> float:
        """Seconds to adapt to one class, the median of a few."""
        seconds = []
        for index in self.bench.classes[:TIMED]:
            support, rng = self.bench.episode(index).support, torch_generator(self.bench.seed, "latency")
            start = time.perf_counter()
            for _ in method.adapted(support, [self.steps], rng):
                pass
            seconds.append(time.perf_counter() - start)
        return median(seconds)
