"""Implicit MAML (Rajeswaran et al. 2019, arXiv:1909.04630): the meta-gradient where adaptation ends, whatever way
it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from metagen.adapt import Inner
from metagen.algorithms.estimator import Estimate, Needs
from metagen.algorithms.query import Query, add
from metagen.policies.policy import Policy, Run
from metagen.problem import Problem
from metagen.strict import Strict
from metagen.tasks.episodes import Episode


class ImamlOptions(Strict):
    inner_steps: int = Field(10, ge=1)
    """Steps that the policy takes towards the minimum of the inner loss."""
    cg_steps: int = Field(5, ge=1)
    """Conjugate-gradient steps, each one Hessian-vector product."""
    cg_tolerance: float = Field(1e-3, ge=0)
    """The system is solved when the residual is this share of the right-hand side."""
    curvature_draws: int = Field(4, ge=1)
    """Noise draws for each support image that the Hessian is taken over."""
    query_draws: int = Field(4, ge=1)
    """Noise draws for each query image."""


class Imaml:
    """``(I + H / lambda)^-1 grad L_Q(phi_K)``, solved by conjugate gradients.

    ``phi_K`` stands for the minimiser of ``L_S(phi) + lambda / 2 |phi - theta|^2`` (``policy.proximal`` is
    ``lambda``) and ``H`` is the Hessian of ``L_S`` there. Where only a subset ``m`` of the parameters is adapted,
    the system is that of the subset, ``x = (I + H_mm / lambda)^-1 q_m``, and the rest get ``q_r - H_rm x / lambda``.
    """

    Options = ImamlOptions
    needs = Needs(gradient_steps=True, second_order=True, proximal=True)

    def __init__(self, options: ImamlOptions) -> None:
        self.options = options

    def estimate(
        self,
        problem: Problem,
        theta: Tensor,
        policy: Policy,
        policy_vector: Tensor,
        episodes: Sequence[Episode],
        rngs: Sequence[torch.Generator],
    ) -> Estimate:
        options, gradient = self.options, torch.zeros_like(theta)
        metrics: dict[str, float] = {}
        for episode, rng in zip(episodes, rngs, strict=True):
            query = Query(problem, episode, options.query_draws, rng)
            inner = Inner.of(problem, policy, theta, episode.support)
            run, phi, support_loss = Run(policy_vector, problem.network.layers), theta, 0.0
            add(metrics, "query_loss/0", query.loss(theta) / len(episodes))
            for step in range(options.inner_steps):
                phi, support_loss = inner.step(run, phi, step, rng)
            loss, slope = query.gradient(phi)
            curvature = _curvature(inner, phi, options.curvature_draws, rng)
            solved = _implicit(problem, slope, curvature, options.cg_steps, options.cg_tolerance)
            gradient += solved.gradient / len(episodes)
            found = {
                "loss": loss,
                f"query_loss/{options.inner_steps}": loss,
                "support_loss": support_loss,
                "cg_residual": solved.residual,
                "cg_negative_curvature": float(solved.negative),
            }
            for name, value in found.items():
                add(metrics, name, value / len(episodes))
        return Estimate(gradient, torch.zeros_like(policy_vector), metrics)


@dataclass(frozen=True)
class Solved:
    """An implicit gradient ``[P]`` and how well it was solved for."""

    gradient: Tensor
    residual: float
    """Norm of what is left, as a share of the right-hand side's."""
    negative: bool
    """A direction of negative curvature was met: there is no minimum here for so small a ``lambda``."""


def _curvature(inner: Inner, phi: Tensor, draws: int, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """``v -> H v`` of the support loss at ``phi [P]``; the graph is made once."""
    point = phi.detach().requires_grad_()
    images = inner.support.repeat_interleave(draws, dim=0)
    _, slope = inner.problem.differentiable_gradient(point, inner.shown(rng), images, rng)

    def product(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(slope, point, v, retain_graph=True)
        return found

    return product


def _implicit(
    problem: Problem, slope: Tensor, curvature: Callable[[Tensor], Tensor], steps: int, tolerance: float
) -> Solved:
    """Solve ``(I + H_mm / lambda) x = q_m`` by conjugate gradients (Hestenes & Stiefel 1952), from 0.

    Stops where the curvature along a direction is not positive, at what was found before (Steihaug 1983), or at the
    first residual if that is the first direction.
    """
    mask = torch.ones_like(slope) if problem.adapted is None else problem.adapted.to(slope)

    def product(v: Tensor) -> Tensor:
        return v + mask * curvature(v) / problem.proximal

    right = mask * slope
    x, residual = torch.zeros_like(right), right
    direction, square = residual, residual.dot(residual)
    scale, negative = float(square.sqrt()), False
    for step in range(steps):
        if float(square.sqrt()) <= tolerance * scale:
            break
        image = product(direction)
        bend = direction.dot(image)
        if float(bend) <= 0:
            negative = True
            x = right if step == 0 else x
            break
        x = x + square / bend * direction
        residual = residual - square / bend * image
        square, last = residual.dot(residual), square
        direction = residual + square / last * direction
    gradient = x if problem.adapted is None else x + (1 - mask) * (slope - curvature(x) / problem.proximal)
    return Solved(gradient, float(square.sqrt()) / scale if scale else 0.0, negative)
