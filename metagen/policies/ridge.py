"""Adaptation in closed form: a ridge regression of the last layer, with the network before it as basis functions
(differentiable closed-form solvers: Bertinetto et al. 2019, arXiv:1805.08136, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from metagen.flat import Layout
from metagen.policies.policy import Gradient, Run
from metagen.regression import Normal, regression, weights_in, with_weights
from metagen.strict import Strict

if TYPE_CHECKING:
    from metagen.generators.family import Condition
    from metagen.problem import Problem


class RidgeOptions(Strict):
    strength: float = Field(10.0, gt=0)
    """Where ``lambda`` starts: the pull of the last layer's weights towards those in theta."""


class Ridge:
    """``c* = argmin_c L_S(c) + lambda |c - c_0|^2``, solved; no step size.

    ``c`` are the last layer's weights and ``c_0`` those in theta. With basis fields ``G(x_t, t)``, the layer's
    inputs, and targets ``y``: ``c* = (sum G'G + lambda I)^-1 (sum G'y + lambda c_0)``. Each step adds a draw of
    noise to the sums, which are means, and solves again: more steps mean less noise in ``c*``, not a longer way.
    """

    Options = RidgeOptions

    def __init__(self, options: RidgeOptions) -> None:
        self.options = options

    def initial(self, layout: Layout) -> Tensor:
        """``log lambda``."""
        return torch.tensor([self.options.strength]).log()

    def solve(
        self, run: Run, problem: Problem, parameters: Tensor, condition: Condition, rng: torch.Generator
    ) -> tuple[Tensor, float]:
        state, images = run.state, condition.support.repeat_interleave(problem.draws, dim=0)
        problem.network.load(parameters)
        seen = regression(problem, condition, images, rng)
        c = weights_in(problem, parameters)
        with torch.no_grad():
            loss, new = float(seen.loss(c)), seen.normal()
            start, looks = state.setdefault("start", c), state.get("looks", torch.zeros(()))
            gram, right = state.get("gram", new.gram), state.get("right", new.right)
            share = float(1 / (looks + 1))
            state["looks"] = looks + 1
            state["gram"], state["right"] = torch.lerp(gram, new.gram, share), torch.lerp(right, new.right, share)
            solved = Normal(state["gram"], state["right"]).solve(start, run.vector.double().exp())
        return with_weights(problem, parameters, solved), loss

    def wants_halves(self, step: int) -> bool:
        return False

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        raise NotImplementedError("ridge does not step along gradients")

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        raise NotImplementedError("ridge takes no inner steps to learn from: use the estimator closed-form")

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        return {"log10_ridge_strength": vector / torch.log(torch.tensor(10.0))}
