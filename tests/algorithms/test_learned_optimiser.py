"""The learned optimiser: where it starts, its gradients, and that evolution strategies train it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.adapt import adapt
from metagen.algorithms.es import Evolution, EvolutionOptions
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.outer import adam, no_moments
from metagen.policies import Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.learned import LearnedOptimiser, LearnedOptimiserOptions
from metagen.policies.policy import Gradient
from metagen.probes import slopes
from metagen.problem import Problem
from metagen.seeding import torch_generator

SUPPORT = torch.randn(4, 1, 4, 4, generator=torch_generator("support"))
STEPS = 5


def _policy(step_size: float = 0.02) -> LearnedOptimiser:
    return LearnedOptimiser(LearnedOptimiserOptions(step_size=step_size, hidden=4))


def _some_vector(policy: LearnedOptimiser) -> Tensor:
    start = policy.initial(None).double()  # type: ignore[arg-type]
    return start + torch.randn(len(start), generator=torch_generator("vector"), dtype=torch.float64)


def _path(problem: Problem, policy: Any, vector: Tensor, theta: Tensor) -> list[Tensor]:
    run = Run(vector, problem.network.layers)
    return [s.parameters for s in adapt(problem, theta, SUPPORT, policy, run, STEPS, torch_generator(0))]


def test_before_anything_is_learned_it_is_adam(toy_problem: Any) -> None:
    problem, policy = toy_problem(), _policy()
    theta = problem.network.initial
    mine = _path(problem, policy, policy.initial(problem.network.layout), theta)
    other = _path(problem, Fixed(FixedOptions(rule="adam", step_size=0.02)), torch.zeros(0), theta)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, other, strict=True))
    learned = _path(problem, policy, _some_vector(policy).float(), theta)
    assert not torch.allclose(learned[1], other[1], atol=1e-4)


def test_nothing_depends_on_the_scale_of_the_loss(toy_problem: Any) -> None:
    problem, policy, rng = toy_problem(), _policy(), torch_generator("gradients")
    theta, vector = problem.network.initial.double(), _some_vector(policy)
    gradients = torch.randn(STEPS, len(theta), generator=rng, dtype=torch.float64)
    ends = []
    for scale in (1.0, 1000.0):
        run, phi = Run(vector, problem.network.layers), theta
        for step, gradient in enumerate(scale * gradients):
            phi = policy.step(run, phi, Gradient(gradient, torch.zeros(()), SUPPORT), step)
        ends.append(phi)
    assert not torch.allclose(ends[0], theta, atol=1e-3)
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-7)


def test_one_vector_serves_every_network(toy_problem: Any) -> None:
    policy = _policy()
    for linear in (False, True):
        problem = toy_problem(linear=linear)
        assert len(policy.initial(problem.network.layout)) == len(_some_vector(policy))
        path = _path(problem, policy, _some_vector(policy).float(), problem.network.initial)
        assert all(torch.isfinite(phi).all() for phi in path)


def test_where_there_is_no_gradient_what_it_says_is_finite(toy_problem: Any) -> None:
    problem, policy = toy_problem(), _policy()
    theta, run = problem.network.initial, Run(_some_vector(policy).float(), problem.network.layers)
    for step in range(3):
        assert torch.isfinite(
            policy.step(run, theta, Gradient(torch.zeros_like(theta), torch.zeros(()), SUPPORT), step)
        ).all()


def test_the_hypergradient_of_one_inner_step_is_exact(
    toy_problem: Any, episodes: Any, estimate: Any, slope_of_the_loss: Any
) -> None:
    problem, policy, tasks, query_at = toy_problem(), _policy(), episodes(2), {0: 1.0, 1: 2.0}
    theta, vector = problem.network.initial.double(), _some_vector(policy)
    fomaml = Fomaml(FomamlOptions(query_at=query_at, query_draws=2))
    found = estimate(fomaml, problem, theta, tasks, policy, vector).policy_gradient
    exact = slope_of_the_loss(problem, theta, tasks, policy, vector, query_at, range(len(vector)), "vector")
    assert exact.abs().max() > 1e-4
    assert torch.allclose(found, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


def test_what_is_not_adapted_has_no_say_in_what_is_learned(
    toy_problem: Any, episodes: Any, estimate: Any, slope_of_the_loss: Any
) -> None:
    """The policy would move all parameters, also those without a gradient; they stay, so they teach it nothing."""
    problem, policy, tasks, query_at = toy_problem(), _policy(), episodes(2), {1: 1.0}
    problem = replace(problem, adapted=problem.network.layout.subset(["0.*"]))
    theta, vector = problem.network.initial.double(), _some_vector(policy)
    fomaml = Fomaml(FomamlOptions(query_at=query_at, query_draws=2))
    found = estimate(fomaml, problem, theta, tasks, policy, vector)
    exact = slope_of_the_loss(problem, theta, tasks, policy, vector, query_at, range(len(vector)), "vector")
    assert torch.allclose(found.policy_gradient, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    assert found.gradient[~problem.adapted].any()  # theta's own gradient is of the whole network


def test_maml_is_exact_through_it(toy_problem: Any, episodes: Any, estimate: Any, slope_of_the_loss: Any) -> None:
    problem, policy, tasks, query_at = toy_problem(), _policy(), episodes(1), {0: 1.0, 3: 2.0}
    theta, vector = problem.network.initial.double(), _some_vector(policy)
    maml = Maml(MamlOptions(query_at=query_at, query_draws=2, checkpoints="sqrt"))
    found = estimate(maml, problem, theta, tasks, policy, vector)
    for of, slope in (("theta", found.gradient), ("vector", found.policy_gradient)):
        indices = range(0, len(slope), 3)
        exact = slope_of_the_loss(problem, theta, tasks, policy, vector, query_at, indices, of)
        assert torch.allclose(slope[list(indices)], exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max())), of


def test_evolution_strategies_train_it_and_another_network_gains_as_well(
    toy_problem: Any, episodes: Any, estimate: Any
) -> None:
    """From a step size far too small, on a network with a hidden layer; judged there and on a linear one."""
    problem, policy, query_at = toy_problem(noise=0.1), _policy(1e-4), {STEPS: 1.0}
    start = policy.initial(problem.network.layout)
    vector, moments, theta = start, no_moments(len(start)), problem.network.initial.double()
    options = EvolutionOptions(query_at=query_at, sigma=0, policy_sigma=0.1, pairs=4)
    for _ in range(30):
        found = estimate(Evolution(options), problem, theta, episodes(2), policy, vector.double())
        _, slope = slopes(found.probes, len(theta), len(vector))
        direction, moments = adam(slope, moments, 0.9, 0.99)
        vector = vector - 0.2 * direction

    judge = Fomaml(FomamlOptions(query_at=query_at))
    for linear in (False, True):
        other = toy_problem(linear=linear, noise=0.1)
        at = other.network.initial.double()
        before, after = (
            estimate(judge, other, at, episodes(6)[2:], policy, v.double()).metrics["loss"] for v in (start, vector)
        )
        assert after < before - 0.02 * abs(before), linear


@pytest.mark.parametrize("options", [{"step_size": 0}, {"hidden": 0}, {"strength": 0}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    from metagen.errors import UserError

    with pytest.raises(UserError, match=next(iter(options))):
        LearnedOptimiserOptions.parse(options)
