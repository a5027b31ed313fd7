"""What a policy picks for tasks: which rule, which step size in which layer at which step, how many steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from metagen.adapt import adapt
from metagen.evaluate import Bench, Method
from metagen.policies import Run, Solver
from metagen.seeding import torch_generator


@dataclass(frozen=True)
class Pick:
    """What was picked for one task."""

    class_name: str
    category: int | None
    """The task's category, where tasks are sorted."""
    rule: str
    """'' for a policy that does not say."""
    log10_sizes: Tensor
    """log10 of the step sizes: ``[steps taken, L]``; of how far each layer moved (root mean square), for a policy
    that does not say: -inf for one that stood still."""


def picks(method: Method, bench: Bench, steps: int) -> Iterator[Pick]:
    """What ``method`` picks for each class of ``bench``, asked for ``steps`` inner steps at most."""
    layers, sorter = method.problem.network.layers, method.problem.sorter
    for index in bench.classes:
        support, name = bench.episode(index).support, bench.images.classes[index]
        run = Run(method.vector, layers)
        rng = torch_generator(bench.seed, "adaptation", name)
        path = [s.parameters for s in adapt(method.problem, method.theta, support, method.policy, run, steps, rng)]
        solves = isinstance(method.policy, Solver)  # and takes no steps that could be smaller
        share = 1.0 if solves else method.problem.share_of_step(len(support), method.vector)
        sizes = [size + math.log(share) for size in run.log_sizes] if share else []
        if share and not sizes:
            moves = [after - before for before, after in pairwise(path) if after is not before]
            sizes = [layers.mean_square(move).sqrt().log() for move in moves]
        table = torch.stack(sizes).float().cpu() / math.log(10) if sizes else torch.zeros(0, layers.count)
        yield Pick(name, sorter.category(support) if sorter else None, run.rule, table)


def shares(found: Sequence[Pick]) -> dict[str, float]:
    """How often each rule was picked, the most frequent first."""
    counts = Counter(pick.rule or "not said" for pick in found)
    return {rule: count / len(found) for rule, count in counts.most_common()}


def typical(found: Sequence[Pick]) -> Tensor:
    """Median log10 step size over tasks: ``[steps, L]``, each step over the tasks that took it."""
    most = max(len(pick.log10_sizes) for pick in found)
    layers = found[0].log10_sizes.shape[1]
    rows = [[pick.log10_sizes[j] for pick in found if len(pick.log10_sizes) > j] for j in range(most)]
    return torch.stack([torch.stack(row).median(0).values for row in rows]) if rows else torch.zeros(0, layers)
