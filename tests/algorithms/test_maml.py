from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen import work
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.flat import FlatNetwork
from metagen.generators import Condition
from metagen.policies import Policy
from metagen.policies.alfa import Alfa, AlfaOptions
from metagen.policies.rules import RULES
from metagen.problem import Problem
from metagen.records import unpacked
from metagen.seeding import torch_generator

QUERY_AT = {0: 0.5, 2: 1.0, 5: 2.0}
"""Five steps: with square-root checkpoints the walk back goes over segments of 2, 2 and 1."""


def _maml(**options: Any) -> Maml:
    return Maml(MamlOptions(**{"query_at": QUERY_AT, "query_draws": 2, **options}))


def _some_vector(policy: Policy, problem: Problem) -> Tensor:
    start = policy.initial(problem.network.layout).double()
    return start + 0.2 * torch.randn(len(start), generator=torch_generator("vector"), dtype=torch.float64)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_maml_matches_backpropagation_through_the_unroll_and_finite_differences(
    rule: str, learned: bool, toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any, slope_of_the_loss: Any
) -> None:
    """In theta and in the policy's vector; with learned steps also through the agreement of halves."""
    problem, policy, tasks = toy_problem(), policy_of(rule, learned), episodes(2, shots=4)
    theta, vector = problem.network.initial.double(), _some_vector(policy, problem)
    unrolled = estimate(_maml(by="unroll"), problem, theta, tasks, policy, vector)
    for checkpoints in ("all", "sqrt"):
        adjoint = estimate(_maml(checkpoints=checkpoints), problem, theta, tasks, policy, vector)
        assert torch.allclose(adjoint.gradient, unrolled.gradient, rtol=1e-9, atol=1e-10)
        assert torch.allclose(adjoint.policy_gradient, unrolled.policy_gradient, rtol=1e-9, atol=1e-10)
        assert adjoint.metrics == pytest.approx(unrolled.metrics, rel=1e-10)
    for of, found in (("theta", unrolled.gradient), ("vector", unrolled.policy_gradient)):
        indices = range(0, len(found), 7)
        exact = slope_of_the_loss(problem, theta, tasks, policy, vector, QUERY_AT, indices, of)
        assert torch.allclose(
            found[list(indices)], exact, rtol=1e-4, atol=1e-5 * float(found.abs().max() if len(found) else 0)
        ), of
    assert learned == bool(unrolled.policy_gradient.any())


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_maml_is_exact_through_step_sizes_made_from_layer_statistics(
    rule: str, toy_problem: Any, episodes: Any, estimate: Any, slope_of_the_loss: Any
) -> None:
    """ALFA: the adjoint is the unroll and finite differences, in theta and in the policy's vector."""
    policy = Alfa(AlfaOptions(rule=rule, step_size=0.02, horizon=2, hidden=2))
    problem, tasks = toy_problem(), episodes(1, shots=4)
    theta, vector = problem.network.initial.double(), _some_vector(policy, problem)
    adjoint, unrolled = (estimate(_maml(by=by), problem, theta, tasks, policy, vector) for by in ("adjoint", "unroll"))
    assert torch.allclose(adjoint.gradient, unrolled.gradient, rtol=1e-9, atol=1e-10)
    assert torch.allclose(adjoint.policy_gradient, unrolled.policy_gradient, rtol=1e-9, atol=1e-10)
    for of, found in (("theta", adjoint.gradient), ("vector", adjoint.policy_gradient)):
        indices = range(0, len(found), 9)
        exact = slope_of_the_loss(problem, theta, tasks, policy, vector, QUERY_AT, indices, of)
        assert torch.allclose(found[list(indices)], exact, rtol=1e-4, atol=1e-5 * float(found.abs().max())), of


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_maml_is_exact_with_a_proximal_term_and_on_a_subset(
    rule: str, toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any, slope_of_the_loss: Any
) -> None:
    problem, policy, tasks = toy_problem(), policy_of(rule, True), episodes(1)
    problem = dataclasses.replace(problem, adapted=problem.network.layout.subset(["2.*", "0.bias"]), proximal=0.7)
    theta, vector = problem.network.initial.double(), _some_vector(policy, problem)
    adjoint, unrolled = (
        estimate(_maml(by=by, checkpoints="sqrt"), problem, theta, tasks, policy, vector)
        for by in ("adjoint", "unroll")
    )
    assert torch.allclose(adjoint.gradient, unrolled.gradient, rtol=1e-9, atol=1e-10)
    assert torch.allclose(adjoint.policy_gradient, unrolled.policy_gradient, rtol=1e-9, atol=1e-10)
    for of, found in (("theta", adjoint.gradient), ("vector", adjoint.policy_gradient)):
        indices = range(0, len(found), 5)
        exact = slope_of_the_loss(problem, theta, tasks, policy, vector, QUERY_AT, indices, of)
        assert torch.allclose(found[list(indices)], exact, rtol=1e-4, atol=1e-5 * float(found.abs().max()))


def test_maml_is_not_fomaml_where_the_loss_bends_and_is_where_it_does_not(
    toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    policy, tasks = policy_of("sgd", False), episodes(1)
    for linear in (False, True):
        problem = toy_problem(linear=linear)
        theta = problem.network.initial.double()
        exact = estimate(_maml(), problem, theta, tasks, policy, torch.zeros(0))
        fomaml = Fomaml(FomamlOptions(query_at=QUERY_AT, query_draws=2))
        first = estimate(fomaml, problem, theta, tasks, policy, torch.zeros(0))
        assert torch.allclose(exact.gradient, first.gradient, rtol=1e-6, atol=1e-8) == linear
        assert exact.metrics == pytest.approx(first.metrics)


def test_where_a_gradient_is_zero_the_derivative_of_adam_is_finite(
    toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    """A last layer of zeros: nothing before it has a gradient in the first step."""
    problem, policy = toy_problem(), policy_of("adam", True)
    theta = problem.network.initial.double()
    theta[-(5 * 16 + 16) :] = 0
    found = estimate(_maml(), problem, theta, episodes(1), policy, policy.initial(problem.network.layout).double())
    assert torch.isfinite(found.gradient).all()
    assert torch.isfinite(found.policy_gradient).all()


@pytest.mark.parametrize(
    "changes",
    [
        "attention=true",
        "activation=gelu",
        "normalisation=layer",
        "normalisation=none",
        "connectivity=dense",
        "resampling=pool",
    ],
)
def test_every_part_of_the_network_has_a_second_derivative(changes: str, tiny_config: Any) -> None:
    """Against finite differences of the gradient in float64, attention by the plain formula."""
    # No maps of the set: their deviation has a floor, a kink that finite differences step over.
    form = ("generator.architecture.widths=[16,16]", "generator.architecture.set_conditioning=vector")
    config = tiny_config(f"generator.architecture.{changes}", *form)
    family = config.family()
    network = FlatNetwork(work.initialised(family, 0).double(), torch.device("cpu"), torch.float64)
    problem = Problem(family, network, 1)
    rng = torch_generator("point")
    theta, v = (torch.randn(network.layout.size, generator=rng, dtype=torch.float64) for _ in range(2))
    theta = network.initial.double() + 0.05 * theta
    support = torch.rand(3, 1, 16, 16, generator=rng).double() * 2 - 1
    at = theta.clone().requires_grad_()
    condition = Condition.leave_one_out(support)
    _, slope = problem.differentiable_gradient(at, condition, support, torch_generator("draw"))
    (product,) = torch.autograd.grad(slope, at, v)
    ends = [problem.gradient(theta + h * v, condition, support, torch_generator("draw"))[1] for h in (1e-5, -1e-5)]
    expected = (ends[0] - ends[1]) / 2e-5
    assert float((product - expected).norm() / expected.norm()) < 1e-3


def test_bf16_is_near_fp32(tiny_config: Any, new_learner: Any) -> None:
    """In a bf16 run the path is that of bf16, the walk back along it is float32."""
    results = []
    for precision in ("fp32", "bf16"):
        maml = "phases.1={estimator: maml, options: {query_at: {0: 1, 3: 1}}, tasks: 2, steps: 2}"
        config = tiny_config(f"precision={precision}", maml, "episode.queries=8", "policy.options.rule=sgd")
        learner, parts = new_learner(config)
        noise = torch.randn(learner.layout.size, generator=torch_generator("theta"))
        learner.state = dataclasses.replace(learner.state, theta=learner.state.theta + 0.05 * noise)
        results.append(work.run(parts, work.plan(config, 3, 0)[0], learner.snapshot()))
    full, half = (unpacked(result.gradient).double() for result in results)
    assert float(torch.cosine_similarity(full, half, dim=0)) > 0.98
