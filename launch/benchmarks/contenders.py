"""Who is compared in the few-shot benchmark: a trained model, and how it adapts to a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from metagen.evaluate import Bench, Losses, Method
from metagen.policies.fixed import Fixed, FixedOptions

ADAM = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
HEAD_AND_FILM = ("*.film.*", "out.*")


@dataclass(frozen=True)
class Contender:
    """A model of ``models.py``, and the inner loop from it."""

    title: str
    model: str
    sizes: tuple[float, ...] = ADAM
    """Step sizes that are tuned over, for each number of steps; none for the policy that the model was trained with."""
    rule: str = "adam"
    adapted: tuple[str, ...] | None = None
    """Patterns of the parameters that are moved; None for all."""
    oracle: bool = False
    """Tuned on validation classes of the data set that is tested on, and not of the one trained on."""
    all_shots: bool = False
    """Measured at every number of images shown, and not at the first alone."""

    def method(self, start: Method, size: float | None) -> Method:
        """The inner loop from ``start`` at one step size."""
        if size is None:
            return start
        network = start.problem.network
        mask = None if self.adapted is None else network.layout.subset(self.adapted).to(network.device)
        problem = replace(start.problem, adapted=mask, proximal=0.0)
        policy = Fixed(FixedOptions(rule=self.rule, step_size=size))
        return Method(problem, start.theta, policy, torch.zeros(0))


CONTENDERS: dict[str, Contender] = {
    "meta": Contender("metagen: meta-trained, its own policy", "meta", (), all_shots=True),
    "meta-adam": Contender("the same weights, tuned Adam", "meta"),
    "conditioned": Contender("set-conditioned, joint, tuned Adam", "conditioned", all_shots=True),
    "conditioned-oracle": Contender("the same, Adam tuned on this data set", "conditioned", oracle=True),
    "joint": Contender("joint, tuned Adam", "joint", all_shots=True),
    "joint-film": Contender("joint, tuned Adam on FiLM and head", "joint", (*ADAM, 3e-3), adapted=HEAD_AND_FILM),
    "reptile-figr": Contender("Reptile, FIGR's settings", "reptile-figr", (1e-3,), "sgd"),
    "reptile": Contender("Reptile, tuned", "reptile"),
    "scratch": Contender("from scratch, tuned Adam", "scratch", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
}
"""By name. The first is what the others are compared with. ``conditioned`` at 0 steps is set-conditioning alone."""


def tuned_sizes(
    contender: Contender, start: Method, bench: Bench, steps: Sequence[int], best_within: bool = False
) -> dict[int, float | None]:
    """The best step size for each number of steps, on the classes of ``bench``; None where the policy has its own.

    ``best_within``: the one with the best loss at any of ``steps`` up to that number.
    """
    if not contender.sizes:
        return dict.fromkeys(steps)
    table = np.stack([bench.losses(contender.method(start, size), steps).mean(0) for size in contender.sizes])
    if best_within:
        table = np.minimum.accumulate(table, axis=1)
    return {k: contender.sizes[int(table[:, i].argmin())] for i, k in enumerate(steps)}


def losses_at(
    contender: Contender, start: Method, bench: Bench, sizes: Mapping[int, float | None], steps: Sequence[int]
) -> Losses:
    """Losses ``[classes, len(steps)]``, each number of steps at its own size; a size is run no further than needed."""
    table = np.empty((len(bench.classes), len(steps)))
    for size in dict.fromkeys(sizes[k] for k in steps):
        columns = [i for i, k in enumerate(steps) if sizes[k] == size]
        method = contender.method(start, size)
        table[:, columns] = bench.losses(method, [steps[i] for i in columns])
    return table
