"""MAML: the exact meta-gradient, and the exact hypergradient of the policy (Finn et al. 2017, arXiv:1703.03400).

By the adjoint of the unrolled inner loop (reverse-mode hypergradients: Maclaurin et al. 2015, arXiv:1502.03492;
Franceschi et al. 2017, arXiv:1703.01785): the path is stored, not the graph. Segments between stored points can be
walked again (Griewank 1992; Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metagen.adapt import Inner
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, QueryOptions, add, replayed
from metagen.policies.policy import Policy, Run
from metagen.policies.rules import State
from metagen.problem import Problem
from metagen.tasks.episodes import Episode


class MamlOptions(QueryOptions):
    by: Literal["adjoint", "unroll"] = "adjoint"
    """``adjoint`` holds the graph of one inner step at a time; ``unroll`` that of all of them, and differentiates
    once through everything."""
    checkpoints: Literal["all", "sqrt"] = "all"
    """Points of the path that the adjoint stores: all, or one in ``sqrt(K)``, walking the rest again."""
    derivative: Literal["fp32", "network"] = "fp32"
    """Digits of second derivatives: float32, or those that the network computes in. In bf16 that is faster and, for
    steps that are linear in the gradient (sgd, momentum), right to about a hundredth; where a rule divides by what
    may be next to nothing, as adam does in its first steps, it is not right at all."""


class Point(NamedTuple):
    """All that an inner step starts from."""

    phi: Tensor
    """``[P]``."""
    state: State
    """The rule's, by name."""
    noise: Tensor
    """The state of the generator of noise."""


class Maml:
    """``d / d theta`` and ``d / d policy`` of ``sum_k w_k L_Q(phi_k)``, exact.

    With ``(phi_{k+1}, s_{k+1}) = F_k(phi_k, s_k, theta, g)``, rule state ``s`` and policy vector ``g``, walk from
    ``k = K`` back to 0::

        (v, u) <- [d F_k / d (phi, s)]^T (v, u) + (w_k grad L_Q(phi_k), 0)
        dg    <- dg + [d F_k / d g]^T (v, u)

    For SGD at rate ``a`` the first line is ``v - a H v + ...``: one Hessian-vector product a step, reverse over
    reverse. The inner loop runs in the network's dtype; the walk back is in float32 (``derivative``) at the points it
    went through.
    """

    Options = MamlOptions
    needs = Needs(gradient_steps=True, second_order=True, policy_derivative=True)

    def __init__(self, options: MamlOptions) -> None:
        self.weights, self.query_draws, self.by = options.weights, options.query_draws, options.by
        self.exact = options.derivative == "fp32"
        self.steps = max(self.weights)
        self.every = max(1, math.isqrt(self.steps)) if options.checkpoints == "sqrt" else 1

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        gradient, policy_gradient = torch.zeros_like(theta), torch.zeros_like(policy_vector)
        metrics: dict[str, float] = {"loss": 0.0, "support_loss": 0.0}
        problem = replace(problem, exact=self.exact)
        take = self._unrolled if self.by == "unroll" else self._adjoint
        for episode, rng in zip(episodes, rngs, strict=True):
            query = Query(problem, episode, self.query_draws, rng)
            inner = Inner.of(problem, policy, theta, episode.support)
            found: dict[str, float] = {}
            slope, policy_slope = take(inner, query, policy_vector, rng, found)
            gradient += slope / len(episodes)
            policy_gradient += policy_slope / len(episodes)
            for name, value in found.items():
                add(metrics, name, value / len(episodes))
        return Estimate(gradient, policy_gradient, metrics)

    def _adjoint(
        self, inner: Inner, query: Query, vector: Tensor, rng: torch.Generator, metrics: dict[str, float]
    ) -> tuple[Tensor, Tensor]:
        """The slopes ``[P]`` and ``[G]`` of one episode, walking back from point to point; fills ``metrics``."""
        run, phi = Run(vector, inner.problem.network.layers), inner.start
        points: list[Point] = []
        for k in range(self.steps):
            if k % self.every == 0:
                points.append(Point(phi, dict(run.state), rng.get_state()))
            phi, metrics["support_loss"] = inner.step(run, phi, k, rng)
        adjoint = {"phi": self._judged(query, phi, self.steps, metrics)}
        totals = {"start": torch.zeros_like(inner.start), "vector": torch.zeros_like(vector)}
        for first in reversed(range(0, self.steps, self.every)):
            segment = self._segment(inner, vector, points.pop(), first)
            for k in reversed(range(first, first + len(segment))):
                point = segment.pop()
                adjoint = _pulled_back(inner, vector, point, k, adjoint)
                for name, total in totals.items():
                    total += adjoint.pop(name)
                if k in self.weights:
                    adjoint["phi"] = adjoint["phi"] + self._judged(query, point.phi, k, metrics)
        return adjoint["phi"] + totals["start"], totals["vector"]

    def _segment(self, inner: Inner, vector: Tensor, point: Point, first: int) -> list[Point]:
        """The points of the steps from ``first``, at ``point``, to the next stored one."""
        points, rng = [point], replayed(point.noise)
        run, phi = Run(vector, inner.problem.network.layers, state=dict(point.state)), point.phi
        for k in range(first, min(first + self.every, self.steps) - 1):
            phi, _ = inner.step(run, phi, k, rng)
            points.append(Point(phi, dict(run.state), rng.get_state()))
        return points

    def _judged(self, query: Query, phi: Tensor, k: int, metrics: dict[str, float]) -> Tensor:
        """The weighted query gradient ``[P]`` after ``k`` steps."""
        loss, slope = query.gradient(phi)
        self._note(metrics, k, loss)
        return self.weights[k] * slope

    def _note(self, metrics: dict[str, float], k: int, loss: float) -> None:
        metrics[f"query_loss/{k}"] = loss
        add(metrics, "loss", self.weights[k] * loss)

    def _unrolled(
        self, inner: Inner, query: Query, vector: Tensor, rng: torch.Generator, metrics: dict[str, float]
    ) -> tuple[Tensor, Tensor]:
        """The same by one backward pass through the graph of all steps."""
        start, vector = _leaf(inner.start), _leaf(vector)
        inner, run, phi = replace(inner, start=start), Run(vector, inner.problem.network.layers), start
        total = torch.zeros((), device=start.device, dtype=start.dtype)
        for k in range(self.steps + 1):
            if k in self.weights:
                loss = query.differentiable_loss(phi)
                self._note(metrics, k, float(loss.detach()))
                total = total + self.weights[k] * loss
            if k < self.steps:
                phi, metrics["support_loss"] = inner.step(run, phi, k, rng, differentiable=True)
        slope, policy_slope = torch.autograd.grad(total, (start, vector), allow_unused=True, materialize_grads=True)
        return slope, policy_slope


def _pulled_back(inner: Inner, vector: Tensor, point: Point, k: int, adjoint: State) -> State:
    """``[d F_k / d input]^T adjoint`` for every input: ``phi``, ``start``, ``vector`` and the rule's state.

    ``adjoint`` holds the cotangent of ``phi`` after the step, and those of the state's tensors by name.
    """
    phi, start, vector = _leaf(point.phi), _leaf(inner.start), _leaf(vector)
    state = {name: _leaf(value) for name, value in point.state.items()}
    run = Run(vector, inner.problem.network.layers, state=dict(state))
    after, _ = replace(inner, start=start).step(run, phi, k, replayed(point.noise), differentiable=True)
    outputs = {"phi": after, **{f"state/{name}": value for name, value in run.state.items()}}
    inputs = {"phi": phi, "start": start, "vector": vector, **{f"state/{name}": value for name, value in state.items()}}
    live = [name for name, value in outputs.items() if name in adjoint and value.requires_grad]
    slopes = torch.autograd.grad(
        [outputs[name] for name in live],
        list(inputs.values()),
        [adjoint[name] for name in live],
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(inputs, slopes, strict=True))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()
