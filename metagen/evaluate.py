"""Meta-test: how well a checkpoint does on classes it has never seen, against what it must beat.

Every method sees the same episodes and the same frozen bank of noise, so differences are paired. Intervals
are 95% bootstrap intervals over classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from metagen.adapt import adapt
from metagen.bootstrap import Values, by_class, paired
from metagen.checkpoint import Checkpoint
from metagen.errors import UserError
from metagen.generators import Condition
from metagen.generators.family import checked
from metagen.metrics.query_loss import query_loss
from metagen.policies import Policy, Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.problem import Problem
from metagen.processes import Each, Shared
from metagen.seeding import numpy_generator, torch_generator
from metagen.tasks.categories import Sorter
from metagen.tasks.episodes import Episode, sample_episode
from metagen.tasks.imageset import ImageSet
from metagen.work import build_policy, build_problem

STEP_SIZES = (1e-5, 3e-5, 1e-4, 3e-4)
"""The grid that fine-tuning's step size is tuned over, on validation classes, for each number of steps."""
MAX_QUERIES, MIN_QUERIES = 15, 5

Losses = Values
"""Mean score of the queries, in the family's ``metric``: ``[classes, len(steps)]``."""


@dataclass(frozen=True)
class Method:
    """A starting point and a way to adapt from it."""

    problem: Problem
    theta: Tensor
    policy: Policy
    vector: Tensor

    def adapted(self, support: Tensor, steps: Sequence[int], rng: torch.Generator) -> Iterator[tuple[int, Tensor]]:
        """``(k, parameters [P])`` at each of the step counts ``steps``, on the way to the largest."""
        run = Run(self.vector, self.problem.network.layers)
        for step in adapt(self.problem, self.theta, support, self.policy, run, max(steps), rng):
            if step.taken in steps:
                yield step.taken, step.parameters

    def with_adam(self, step_size: float) -> Method:
        """The same starting point, fine-tuned by Adam at one step size: all parameters, tied to nothing, on the images
        as they are."""
        problem = replace(self.problem, adapted=None, proximal=0.0, relocate=False)
        return Method(problem, self.theta, Fixed(FixedOptions(rule="adam", step_size=step_size)), torch.zeros(0))


def method_of(checkpoint: Checkpoint) -> Method:
    """The meta-trained method that a checkpoint holds; raises ``UserError`` if its weights do not fit."""
    problem = build_problem(checkpoint.config)
    checkpoint.fits(problem.network.layout)
    device = problem.network.device
    policy, state = build_policy(checkpoint.config), checkpoint.state
    return Method(problem, state.mean.to(device), policy, state.policy.to(device))


@dataclass(frozen=True)
class Bench:
    """The frozen test: which classes, which images, which noise."""

    images: ImageSet
    classes: tuple[int, ...]
    shots: int
    seed: int
    groups: Mapping[str, str] | None = None
    """What classes are reported under, by name; None for the domains of the image set."""

    def category(self, index: int) -> str:
        """What class ``index`` is reported under; '' for nothing."""
        if self.groups is None:
            return self.images.domains[index]
        return self.groups.get(self.images.classes[index], "")

    def sorted_by(self, sorter: Sorter) -> Bench:
        """The same bench, reported by the category of each class's task."""
        names = [self.images.classes[index] for index in self.classes]
        found = self.categories(sorter)
        return replace(self, groups={name: f"category {c}" for name, c in zip(names, found, strict=True)})

    def episode(self, index: int) -> Episode:
        """The episode of class ``index``: the same whoever asks."""
        name = self.images.classes[index]
        queries = min(MAX_QUERIES, len(self.images.class_images(index)) - self.shots)
        return sample_episode(self.images, index, self.shots, queries, torch_generator(self.seed, "test", name))

    def categories(self, sorter: Sorter) -> list[int]:
        """The category of each class's task, by the support set that is shown."""
        return [sorter.category(self.episode(index).support) for index in self.classes]

    def losses(self, method: Method, steps: Sequence[int], each: Each = map) -> Losses:
        """Mean scores of the queries after each of ``steps``: ``[classes, len(steps)]``, lower is better.

        ``each`` takes the classes, one after the other or side by side (``processes.py``).
        """
        measure = partial(_losses, Shared(method), tuple(steps), self.seed)
        return np.array(list(each(measure, map(self.episode, self.classes))))


def _losses(method: Shared[Method], steps: tuple[int, ...], seed: int, episode: Episode) -> list[float]:
    """The row of ``Bench.losses`` of one class."""
    found = {}
    rng = torch_generator(seed, "adaptation", episode.class_name)
    for k, parameters in method.value.adapted(episode.support, steps, rng):
        bank = torch_generator(seed, "bank", episode.class_name)
        found[k] = query_loss(method.value.problem, parameters, episode.support, episode.query, bank)
    return [found[k] for k in steps]


def choose_classes(
    images: ImageSet, split: str, shots: int, tasks: int, seed: int
) -> tuple[tuple[int, ...], list[str]]:
    """``tasks`` classes of ``split`` with enough images, by seed, and the names of those left out for too few.

    Raises ``UserError`` if the split has none.
    """
    members = images.members(split, shots + MIN_QUERIES)
    if not len(images.members(split, 0)):
        raise UserError(
            f"{images.name}: split '{split}' has no classes ({images.split_origin}): use another --split, or split the "
            "classes otherwise, such as by folders train/, valid/, test/"
        )
    if not len(members):
        raise UserError(
            f"{images.name}: no class in split '{split}' has {shots + MIN_QUERIES} images ({shots} shots and "
            f"{MIN_QUERIES} to test on): use another --split, fewer --shots or more images"
        )
    chosen = numpy_generator(seed, "test classes").permutation(members)[:tasks]
    return tuple(sorted(int(index) for index in chosen)), images.too_few(split, shots + MIN_QUERIES)


def tune(bench: Bench, method: Method, steps: Sequence[int], each: Each = map) -> dict[int, float]:
    """Adam's best step size of the grid for each number of steps, on the classes of ``bench``."""
    table = np.stack([bench.losses(method.with_adam(size), steps, each).mean(0) for size in STEP_SIZES])
    return {k: STEP_SIZES[int(table[:, i].argmin())] for i, k in enumerate(steps)}


def fine_tuned(
    bench: Bench, method: Method, sizes: Mapping[int, float], steps: Sequence[int], each: Each = map
) -> Losses:
    """Losses of Adam at the step size tuned for each number of steps, each size run no further than it is wanted."""
    table = np.empty((len(bench.classes), len(steps)))
    for size in sorted({sizes[k] for k in steps}):
        columns = [i for i, k in enumerate(steps) if sizes[k] == size]
        table[:, columns] = bench.losses(method.with_adam(size), [steps[i] for i in columns], each)
    return table


def report(bench: Bench, losses: Mapping[str, Losses], steps: Sequence[int]) -> dict[str, dict[str, object]]:
    """``method -> query_loss -> step -> mean, low, high, per_class``, and differences to ``meta`` paired by class.

    With ``by_category`` where the classes have categories.
    """
    names = [bench.images.classes[index] for index in bench.classes]
    categories = [bench.category(index) for index in bench.classes]
    out: dict[str, dict[str, object]] = {}
    for method, table in losses.items():
        entry: dict[str, object] = {
            "query_loss": {str(k): by_class(table[:, i], names, categories) for i, k in enumerate(steps)}
        }
        if method != "meta" and "meta" in losses:
            mine = losses["meta"]
            entry["meta_minus_this"] = {str(k): paired(mine[:, i], table[:, i]) for i, k in enumerate(steps)}
        out[method] = entry
    return out


def generate(method: Method, support: Tensor, steps: int, count: int, seed: int, name: str) -> Tensor:
    """``count`` new images ``[count, C, H, W]`` after adapting to ``support [K, C, H, W]`` for ``steps``.

    They have NaNs where the parameters have diverged: ``visible`` makes something of them that can be looked at.
    """
    rng = torch_generator(seed, "generate", name)
    [(_, parameters)] = method.adapted(support, [steps], rng)
    network = method.problem.network
    network.load(parameters)
    condition = Condition.of_tasks(support[None].to(network.device))
    family = method.problem.family
    found = family.sample(network.module, condition, count, rng)
    return checked(family, "sample", found, (1, count, *support.shape[1:]))[0].cpu()


def visible(images: Tensor) -> Tensor:
    """``images`` in [-1, 1], mid-grey where they are not numbers: who diverged has drawn nothing."""
    return images.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)


def drawn(
    method: Method, bench: Bench, classes: Sequence[int], steps: int, count: int
) -> list[tuple[str, Tensor, Tensor]]:
    """Rows for ``picture.grid``: name, support images and ``count`` generated ones, for ``classes`` of the bench."""
    episodes = [bench.episode(index) for index in classes]
    return [
        (e.class_name, e.support, visible(generate(method, e.support, steps, count, bench.seed, e.class_name)))
        for e in episodes
    ]
