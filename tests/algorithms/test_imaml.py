from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.adapt import Inner
from metagen.algorithms.imaml import Imaml, ImamlOptions
from metagen.generators import Condition
from metagen.problem import Problem
from metagen.tasks.episodes import Episode

STRENGTH = 60.0
"""Enough for the toy problem's inner loss to have a minimum near theta."""


def _dense(problem: Problem, theta: Tensor, episode: Episode, subset: Tensor, policy: Any) -> tuple[Tensor, Tensor]:
    """The implicit gradient by the implicit function theorem with the whole Hessian, and the minimiser."""
    inner = Inner.of(problem, policy, theta, episode.support)

    def support_slope(phi: Tensor) -> Tensor:
        shown = inner.shown(torch.Generator())
        return problem.differentiable_gradient(phi, shown, episode.support, torch.Generator())[1]

    phi = theta.clone().requires_grad_()
    for _ in range(8):  # Newton
        slope = support_slope(phi)
        hessian = torch.stack([torch.autograd.grad(s, phi, retain_graph=True)[0] for s in slope])
        pull = slope.detach() + STRENGTH * (phi.detach() - theta)
        system = hessian[subset][:, subset] + STRENGTH * torch.eye(int(subset.sum()), dtype=theta.dtype)
        moved = phi.detach().clone()
        moved[subset] -= torch.linalg.solve(system, pull[subset])
        phi = moved.requires_grad_()
    condition = Condition.of_tasks(episode.support[None])
    _, query = problem.gradient(phi.detach(), condition, episode.query, torch.Generator())
    exact = query.clone()
    inverse = torch.linalg.solve(system, query[subset])
    exact[subset] = STRENGTH * inverse
    exact[~subset] -= hessian[~subset][:, subset] @ inverse
    return exact, phi.detach()


@pytest.mark.parametrize("patterns", [["*"], ["2.*"], ["0.weight", "2.bias"]])
def test_imaml_is_the_implicit_gradient_of_a_dense_solve(
    patterns: list[str], toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    problem = toy_problem(noise=0.0)
    subset, policy = problem.network.layout.subset(patterns), policy_of("momentum", False, step_size=3e-3)
    problem = dataclasses.replace(problem, adapted=None if patterns == ["*"] else subset, proximal=STRENGTH)
    theta, [episode] = problem.network.initial.double(), episodes(1)
    exact, _ = _dense(problem, theta, episode, subset, policy)
    options = ImamlOptions(inner_steps=400, cg_steps=200, cg_tolerance=1e-10, curvature_draws=1, query_draws=1)
    found = estimate(Imaml(options), problem, theta, [episode], policy, torch.zeros(0))
    assert torch.allclose(found.gradient, exact, rtol=1e-5, atol=1e-6)
    assert found.metrics["cg_residual"] < 1e-9
    assert found.metrics["cg_negative_curvature"] == 0


def test_imaml_is_the_slope_of_the_query_loss_at_the_minimum(
    toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    problem = dataclasses.replace(toy_problem(noise=0.0), proximal=STRENGTH)
    policy, [episode] = policy_of("momentum", False, step_size=3e-3), episodes(1)
    theta, everything = problem.network.initial.double(), torch.ones(problem.network.layout.size, dtype=torch.bool)
    options = ImamlOptions(inner_steps=400, cg_steps=200, cg_tolerance=1e-10, curvature_draws=1, query_draws=1)
    found = estimate(Imaml(options), problem, theta, [episode], policy, torch.zeros(0))
    condition = Condition.of_tasks(episode.support[None])
    for index in (3, 90, 170):
        ends = []
        for sign in (1, -1):
            point = theta.clone()
            point[index] += sign * 1e-5
            _, phi = _dense(problem, point, episode, everything, policy)
            ends.append(float(problem.loss(phi, condition, episode.query, torch.Generator()).mean()))
        assert float(found.gradient[index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-5)


def test_a_stronger_pull_brings_the_gradient_near_that_at_theta(
    toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    theta, away = toy_problem().network.initial.double(), []
    for strength in (10.0, 1e2, 1e4):
        problem = dataclasses.replace(toy_problem(noise=0.0), proximal=strength)
        found = estimate(
            Imaml(ImamlOptions(inner_steps=200, cg_steps=50)),
            problem,
            theta,
            episodes(1),
            policy_of("sgd", False, step_size=0.1 / strength),
            torch.zeros(0),
        )
        [episode] = episodes(1)
        condition = Condition.of_tasks(episode.support[None])
        _, there = problem.gradient(theta, condition, episode.query, torch.Generator())
        away.append(float((found.gradient - there).norm() / there.norm()))
    assert away[0] > away[1] > away[2]
    assert away[2] < 0.01


def test_negative_curvature_is_counted_and_gives_a_finite_gradient(
    toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    """So weak a pull that there is no minimum near theta."""
    problem = dataclasses.replace(toy_problem(noise=0.0), proximal=1e-6)
    options = ImamlOptions(inner_steps=1, cg_steps=50, cg_tolerance=0)
    policy = policy_of("sgd", False, step_size=1e-3)
    found = estimate(Imaml(options), problem, problem.network.initial.double(), episodes(3), policy, torch.zeros(0))
    assert found.metrics["cg_negative_curvature"] > 0
    assert torch.isfinite(found.gradient).all()
