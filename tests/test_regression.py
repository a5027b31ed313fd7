"""The ridge solution of a generator's last layer: policy ``ridge``, estimator ``closed-form``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen import work
from metagen.adapt import adapt
from metagen.algorithms.closed_form import ClosedForm, ClosedFormOptions
from metagen.flat import FlatNetwork
from metagen.generators import REGISTRY, Condition
from metagen.policies import Run
from metagen.policies.ridge import Ridge, RidgeOptions
from metagen.problem import Problem
from metagen.regression import Normal, loaded_weights, regression, weights_in, with_weights
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode

SHOTS = 4


@pytest.fixture
def problem_of(tiny_config: Any, toy_problem: Any) -> Callable[[str], Problem]:
    """The toy problem, or a tiny network of a family whose loss is least squares in its last layer; in float64, away
    from its initialisation, where the last layer is zero."""

    def make(family: str) -> Problem:
        if family == "toy":
            return toy_problem(draws=2)
        config = tiny_config(f"generator.family={family}")
        built = config.family()
        network = FlatNetwork(work.initialised(built, 0).double(), torch.device("cpu"), torch.float64)
        noise = torch.randn(network.layout.size, generator=torch_generator("theta"))
        network.initial += 0.05 * noise
        return Problem(built, network, 2)

    return make


FAMILIES = ["toy", *sorted(name for name, family in REGISTRY.items() if getattr(family, "least_squares", None))]


def _support(problem: Problem, count: int = SHOTS, seed: str = "support") -> Tensor:
    size = problem.family.image_size
    return torch.randn(count, 1, size, size, generator=torch_generator(seed)).clamp(-1, 1)


def _regression(problem: Problem, theta: Tensor) -> tuple[Any, Condition, Tensor]:
    condition = Condition.leave_one_out(_support(problem))
    images = condition.support.repeat_interleave(problem.draws, dim=0)
    problem.network.load(theta)
    return regression(problem, condition, images, torch_generator("draw")), condition, images


@pytest.mark.parametrize("family", FAMILIES)
def test_the_regression_is_the_familys_loss_for_any_last_layer(family: str, problem_of: Any) -> None:
    """The family's promise (``least_squares``), and that the layer's weights go in and out of theta unchanged."""
    problem = problem_of(family)
    theta = problem.network.initial.double()
    found, condition, images = _regression(problem, theta)
    c = weights_in(problem, theta)
    assert torch.equal(c, loaded_weights(problem))
    assert torch.equal(with_weights(problem, theta, c), theta)
    for scale in (0.0, 1.0, 3.0):
        other = c + scale * torch.randn(c.shape, generator=torch_generator("c"), dtype=torch.float64)
        moved = with_weights(problem, theta, other)
        assert torch.allclose(weights_in(problem, moved), other)
        expected = float(problem.loss(moved, condition, images, torch_generator("draw")).mean())
        assert float(found.loss(other).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_solution_is_that_of_lstsq(family: str, strength: float, problem_of: Any) -> None:
    """Of the weighted rows, with the pull to ``c_0`` as further rows."""
    problem = problem_of(family)
    theta = problem.network.initial.double()
    found, _, _ = _regression(problem, theta)
    c_0, root = weights_in(problem, theta), found.weights.sqrt()[:, None]
    eye = strength**0.5 * torch.eye(len(c_0), dtype=torch.float64)
    rows, targets = torch.cat([root * found.features, eye]), torch.cat([root * found.targets, strength**0.5 * c_0])
    expected = torch.linalg.lstsq(rows.detach(), targets, driver="gelsd").solution
    solved = found.normal().solve(c_0, torch.tensor(strength, dtype=torch.float64))
    assert torch.allclose(solved, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ridge_step_moves_the_last_layer_alone_and_lowers_the_support_loss(family: str, problem_of: Any) -> None:
    problem, policy = problem_of(family), Ridge(RidgeOptions(strength=1e-3))
    theta = problem.network.initial.double()
    run = Run(policy.initial(problem.network.layout), problem.network.layers)
    steps = list(adapt(problem, theta, _support(problem), policy, run, 3, torch_generator("noise")))
    subset = problem.network.layout.subset([f"{problem.family.least_squares}.*"])
    for step in steps[1:]:
        assert torch.equal(step.parameters[~subset], theta[~subset])
        assert not torch.equal(step.parameters[subset], theta[subset])
    condition, images = Condition.leave_one_out(_support(problem)), _support(problem)
    before, after = (
        float(problem.loss(step.parameters, condition, images, torch_generator("test")).mean())
        for step in (steps[0], steps[3])
    )
    assert after < before


def test_more_ridge_steps_are_more_draws_of_the_same_problem(toy_problem: Any) -> None:
    """Without noise every step gives the solution of the first; with noise, that of all draws together."""
    policy, many = Ridge(RidgeOptions()), []
    for noise in (0.0, 0.5):
        problem = toy_problem(noise=noise)
        theta, run = (
            problem.network.initial.double(),
            Run(policy.initial(problem.network.layout).double(), problem.network.layers),
        )
        ends = list(adapt(problem, theta, _support(problem), policy, run, 3, torch_generator("noise")))[1:]
        many.append([weights_in(problem, step.parameters) for step in ends])
    assert torch.allclose(many[0][0], many[0][2], rtol=1e-10)
    problem, rng = toy_problem(noise=0.5), torch_generator("noise")
    theta = problem.network.initial.double()
    condition, normals = Condition.leave_one_out(_support(problem)), []
    problem.network.load(theta)
    for _ in range(3):
        normals.append(regression(problem, condition, condition.support, rng).normal())
    mean = Normal(sum(n.gram for n in normals) / 3, sum(n.right for n in normals) / 3)
    expected = mean.solve(weights_in(problem, theta), torch.tensor(10.0, dtype=torch.float64))
    assert torch.allclose(many[1][2], expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_form_matches_finite_differences(family: str, problem_of: Any) -> None:
    """In the last layer, in the network before it and in ``log lambda``; the loss is that of the ridge policy."""
    problem, policy = problem_of(family), Ridge(RidgeOptions(strength=0.05))
    theta = problem.network.initial.double()
    vector = policy.initial(problem.network.layout).double()
    episode = Episode(_support(problem), _support(problem, 3, "query"), "class", 0)

    def estimate(theta: Tensor, vector: Tensor) -> Any:
        estimator = ClosedForm(ClosedFormOptions(query_draws=2))
        return estimator.estimate(problem, theta, policy, vector, [episode], [torch_generator("noise")])

    found = estimate(theta, vector)
    rng = torch_generator("directions")
    step = 1e-6 if family == "toy" else 1e-4
    subset = problem.network.layout.subset([f"{problem.family.least_squares}.*"])
    for part in (subset, ~subset):
        direction = torch.randn(len(theta), generator=rng, dtype=torch.float64) * part
        ends = [estimate(theta + sign * step * direction, vector).metrics["loss"] for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float(found.gradient @ direction) == pytest.approx(expected, rel=0.01 if family != "toy" else 1e-4)
    ends = [estimate(theta, vector + sign * 1e-4).metrics["loss"] for sign in (1, -1)]
    assert float(found.policy_gradient) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3)

    run, rng = Run(vector, problem.network.layers), torch_generator("noise")
    *_, last = adapt(problem, theta, episode.support, policy, run, 1, rng)
    query, condition = episode.query.repeat_interleave(2, dim=0), Condition.of_tasks(episode.support[None])
    loss = float(problem.loss(last.parameters, condition, query, rng).mean())
    assert found.metrics["query_loss/1"] == found.metrics["loss"] == pytest.approx(loss, rel=1e-5)
