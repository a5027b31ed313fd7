from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.adapt import adapt
from metagen.generators import Condition
from metagen.policies import REGISTRY, Policy, Run
from metagen.policies.alfa import Alfa, AlfaOptions
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.rules import RULES
from metagen.policies.steps import LearnedSteps, LearnedStepsOptions
from metagen.problem import Problem
from metagen.seeding import torch_generator

SHOTS = 4


def _images(count: int, seed: str) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch_generator(seed))


def _learned(rule: str, **options: Any) -> LearnedSteps:
    return LearnedSteps(LearnedStepsOptions(rule=rule, step_size=0.02, horizon=3, **options))


def _alfa(rule: str) -> Alfa:
    return Alfa(AlfaOptions(rule=rule, step_size=0.02, horizon=2, hidden=1))


def _some_vector(policy: Policy, problem: Problem) -> Tensor:
    """A vector away from where training starts, in float64."""
    start = policy.initial(problem.network.layout).double()
    return start + 0.3 * torch.randn(len(start), generator=torch_generator("vector"), dtype=torch.float64)


def _query_loss(problem: Problem, policy: Policy, vector: Tensor, query_at: dict[int, float]) -> float:
    """``sum_k w_k L_Q(phi_k)`` in float64."""
    run = Run(vector, problem.network.layers)
    condition, query = Condition.of_tasks(_images(SHOTS, "support")[None]), _images(6, "query")
    total = 0.0
    theta, support = problem.network.initial.double(), _images(SHOTS, "support")
    for step in adapt(problem, theta, support, policy, run, max(query_at), torch_generator("noise")):
        if step.taken in query_at:
            losses = problem.loss(step.parameters, condition, query, torch_generator("query noise"))
            total += query_at[step.taken] * float(losses.mean())
    return total


def _hypergradient(problem: Problem, policy: Policy, vector: Tensor, query_at: dict[int, float]) -> Tensor:
    run = Run(vector, problem.network.layers, traced=True)
    condition, query = Condition.of_tasks(_images(SHOTS, "support")[None]), _images(6, "query")
    slopes = []
    theta, support = problem.network.initial.double(), _images(SHOTS, "support")
    for step in adapt(problem, theta, support, policy, run, max(query_at), torch_generator("noise")):
        if step.taken in query_at:
            _, slope = problem.gradient(step.parameters, condition, query, torch_generator("query noise"))
            slopes.append((step.taken, query_at[step.taken] * slope))
    return policy.hypergradient(run, slopes)


def _assert_is_finite_difference(
    problem: Problem, policy: Policy, query_at: dict[int, float], tolerance: float
) -> None:
    vector = _some_vector(policy, problem)
    estimate = _hypergradient(problem, policy, vector, query_at).double()
    exact = torch.empty_like(estimate)
    for index in range(len(vector)):
        shift = torch.zeros_like(vector)
        shift[index] = 1e-5
        above = _query_loss(problem, policy, vector + shift, query_at)
        below = _query_loss(problem, policy, vector - shift, query_at)
        exact[index] = (above - below) / 2e-5
    assert exact.abs().max() > 1e-4
    assert torch.allclose(estimate, exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_hypergradient_is_exact_where_gradients_do_not_depend_on_earlier_steps(
    toy_problem: Any, rule: str, features: bool
) -> None:
    """A loss linear in the parameters: the Jacobians that the one pass drops are the identity."""
    policy = _learned(rule, features=features)
    _assert_is_finite_difference(toy_problem(linear=True), policy, {0: 0.5, 2: 1.0, 5: 2.0}, 1e-5)


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_hypergradient_of_one_inner_step_is_exact_on_any_loss(toy_problem: Any, rule: str, features: bool) -> None:
    _assert_is_finite_difference(toy_problem(), _learned(rule, features=features), {0: 1.0, 1: 1.0}, 1e-5)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_alfas_one_pass_hypergradient_is_exact_where_it_may_be(toy_problem: Any, rule: str) -> None:
    """For one inner step on any loss, and for several where gradients do not depend on earlier steps."""
    _assert_is_finite_difference(toy_problem(), _alfa(rule), {0: 1.0, 1: 1.0}, 1e-5)
    _assert_is_finite_difference(toy_problem(linear=True), _alfa(rule), {0: 0.5, 2: 1.0, 3: 2.0}, 1e-5)


def test_the_hypergradient_of_several_steps_points_the_right_way_on_a_curved_loss(toy_problem: Any) -> None:
    problem, policy = toy_problem(), _learned("sgd")
    vector = _some_vector(policy, problem) - 2.0
    slope = _hypergradient(problem, policy, vector, {3: 1.0}).double()
    here = _query_loss(problem, policy, vector, {3: 1.0})
    assert _query_loss(problem, policy, vector - 0.05 * slope / slope.norm(), {3: 1.0}) < here


def test_a_query_before_the_first_step_says_nothing_of_step_sizes(toy_problem: Any) -> None:
    policy = _learned("adam")
    problem = toy_problem()
    assert not _hypergradient(problem, policy, _some_vector(policy, problem), {0: 1.0}).any()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_learned_sizes_start_as_the_fixed_rule(toy_problem: Any, rule: str) -> None:
    problem = toy_problem()
    ends = []
    for policy in (
        Fixed(FixedOptions(rule=rule, step_size=0.02)),
        LearnedSteps(LearnedStepsOptions(rule=rule, step_size=0.02, horizon=3, features=False)),
    ):
        run = Run(policy.initial(problem.network.layout), problem.network.layers)
        rng = torch_generator("noise")
        *_, last = adapt(problem, problem.network.initial, _images(SHOTS, "support"), policy, run, 5, rng)
        ends.append(last.parameters.clone())
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-7)


def test_a_fixed_policy_has_nothing_to_learn(toy_problem: Any) -> None:
    policy = Fixed(FixedOptions())
    problem = toy_problem()
    vector = policy.initial(problem.network.layout)
    assert vector.numel() == 0
    run = Run(vector, problem.network.layers, traced=True)
    assert policy.hypergradient(run, [(1, torch.ones(problem.network.layout.size))]).shape == (0,)
    assert policy.describe(vector, problem.network.layout) == {}


def test_beyond_the_horizon_the_last_step_size_holds(toy_problem: Any) -> None:
    """A step size of its own for each of three steps: changing the last one's changes all later steps alike."""
    problem, policy = toy_problem(linear=True, noise=0.0), _learned("sgd", features=False)
    vector = _some_vector(policy, problem)
    run = Run(vector, problem.network.layers)
    support = _images(SHOTS, "support")
    path = [
        step.parameters.clone()
        for step in adapt(problem, problem.network.initial.double(), support, policy, run, 6, torch_generator("noise"))
    ]
    moves = [b - a for a, b in itertools.pairwise(path)]
    assert all(torch.allclose(moves[2], move, rtol=1e-4) for move in moves[3:])
    assert not torch.allclose(moves[0], moves[1], rtol=1e-2)
    assert not torch.allclose(moves[1], moves[2], rtol=1e-2)


def test_the_description_gives_log10_of_every_layers_and_steps_size(toy_problem: Any) -> None:
    problem = toy_problem()
    layout = problem.network.layout
    policy = LearnedSteps(LearnedStepsOptions(step_size=1e-3, horizon=4))
    described = policy.describe(policy.initial(layout), layout)
    sizes = described["log10_step_size"]
    assert sizes.shape == (len(layout.layers), 4)
    assert torch.allclose(sizes, torch.full_like(sizes, -3.0), atol=1e-5)
    assert all(torch.isfinite(values).all() for values in described.values())


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_start_is_the_same_every_time(toy_problem: Any, name: str) -> None:
    layout = toy_problem().network.layout
    policy = REGISTRY[name](REGISTRY[name].Options())
    assert torch.equal(policy.initial(layout), policy.initial(layout))
    assert policy.initial(layout).dtype == torch.float32


@pytest.mark.parametrize("make", [_learned, _alfa])
def test_features_are_not_infinite_when_gradients_vanish(toy_problem: Any, make: Any) -> None:
    """Support images of zeros under a linear loss: no gradient at all."""
    problem, policy = toy_problem(linear=True, noise=0.0), make("adam")
    run = Run(policy.initial(problem.network.layout), problem.network.layers, traced=True)
    theta, support = problem.network.initial, torch.zeros(SHOTS, 1, 4, 4)
    for step in adapt(problem, theta, support, policy, run, 4, torch_generator("noise")):
        assert torch.equal(step.parameters, theta)
    assert torch.isfinite(policy.hypergradient(run, [(4, torch.ones_like(theta))])).all()
