from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen import work
from metagen.algorithms.es import Evolution, EvolutionOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.errors import UserError
from metagen.flat import FlatNetwork
from metagen.generators import Condition, Draw
from metagen.policies.steps import LearnedSteps, LearnedStepsOptions
from metagen.probes import perturbation, reported, slopes
from metagen.problem import Problem
from metagen.records import Probe, Verdict


class Quadratic:
    """``L = |theta - x|^2 / 2`` of eight parameters, whatever is shown; an image of 1x8 pixels."""

    channels, image_size = 1, 8

    def build(self) -> nn.Module:
        return nn.Linear(8, 1, bias=False)

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        return {"noise": torch.randn(count, generator=rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        [weight] = network.parameters()
        return (weight - images.flatten(1)[:, :8]).square().sum(1) / 2 + draw["noise"]


@pytest.fixture
def quadratic() -> Problem:
    family = Quadratic()
    network = FlatNetwork(work.initialised(family, 0).double(), torch.device("cpu"), torch.float64)
    return Problem(family, network, 1)


def _es(**options: Any) -> Evolution:
    return Evolution(EvolutionOptions(**{"query_at": {0: 1.0}, "query_draws": 1, **options}))


def test_es_is_the_gradient_of_a_quadratic_in_every_direction_it_looks(
    quadratic: Problem, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    """There antithetic differences are exact, whatever the noise in the loss: ``<grad, e>`` along each ``e``; and
    the mean over many directions is the gradient itself."""
    theta, [episode] = quadratic.network.initial.double(), episodes(1)
    gradient = theta - episode.query.flatten(1)[:, :8].mean(0)
    found = estimate(
        _es(sigma=0.3, policy_sigma=0, pairs=2000), quadratic, theta, [episode], policy_of("sgd", False), torch.zeros(0)
    )
    for probe in found.probes[:50]:
        direction, _ = perturbation(probe.seed, 8, 0)
        assert (probe.above - probe.below) / (2 * probe.sigma) == pytest.approx(float(direction.double() @ gradient))
    mean, _ = slopes(found.probes, 8, 0)
    assert float((mean - gradient).norm() / gradient.norm()) < 0.1


def test_es_looks_along_the_exact_meta_gradient(toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any) -> None:
    """Through the inner loop, in theta and in the policy's vector at once: each pair is a directional derivative."""
    problem, policy, query_at = toy_problem(noise=0.0), policy_of("momentum", False), {0: 1.0, 2: 1.0}
    theta, tasks = problem.network.initial.double(), episodes(1)
    learned = LearnedSteps(LearnedStepsOptions(rule="momentum", step_size=0.02, horizon=2, features=False))
    for g in (policy, learned):
        vector = g.initial(problem.network.layout).double()
        maml = Maml(MamlOptions(query_at=query_at, query_draws=1))
        exact = estimate(maml, problem, theta, tasks, g, vector)
        found = estimate(
            _es(query_at=query_at, sigma=1e-4, policy_sigma=1e-4, pairs=5), problem, theta, tasks, g, vector
        )
        for probe in found.probes:
            direction, policy_direction = (d.double() for d in perturbation(probe.seed, len(theta), len(vector)))
            slope = direction @ exact.gradient + policy_direction @ exact.policy_gradient
            assert (probe.above - probe.below) / 2e-4 == pytest.approx(float(slope), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("sigma", "policy_sigma"), [(0.0, 0.1), (0.01, 0.0)])
def test_a_sigma_of_zero_leaves_that_part_alone(
    sigma: float, policy_sigma: float, toy_problem: Any, episodes: Any, estimate: Any, policy_of: Any
) -> None:
    problem, policy = toy_problem(), policy_of("sgd", True)
    theta, vector = problem.network.initial, policy.initial(problem.network.layout)
    estimator = _es(query_at={2: 1.0}, sigma=sigma, policy_sigma=policy_sigma)
    found = estimate(estimator, problem, theta, episodes(2), policy, vector)
    gradient, policy_gradient = slopes(found.probes, len(theta), len(vector))
    assert (bool(gradient.any()), bool(policy_gradient.any())) == (bool(sigma), bool(policy_sigma))


def test_nothing_to_perturb_is_refused(tiny_config: Any) -> None:
    with pytest.raises(UserError, match="sigma and policy_sigma are both 0"):
        tiny_config("phases.1={estimator: es, options: {sigma: 0, policy_sigma: 0}}")


ES = "phases.1={estimator: es, options: {query_at: {0: 1, 2: 1}}, items: 3, tasks: 2, steps: 2}"


def test_an_actor_reports_seeds_and_losses_and_the_learner_makes_the_vectors(
    tiny_config: Any, new_learner: Any
) -> None:
    learner, parts = new_learner(tiny_config(ES))
    result = work.run(parts, work.plan(learner.config, 3, 0)[0], learner.snapshot())
    assert result.gradient.nbytes == result.policy_update.nbytes == 0
    assert len(result.probes) == 2
    sizes = learner.layout.size, len(learner.state.policy)
    one, other = reported(result, *sizes), reported(result, *sizes)
    assert [len(vector) for vector in one] == list(sizes)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(bool(vector.any()) for vector in one)


def test_the_learner_applies_probes_as_it_applies_the_vectors_that_they_stand_for(
    tiny_config: Any, new_learner: Any, assert_same_state: Any
) -> None:
    config = tiny_config("phases=[" + ES.removeprefix("phases.1=") + "]")
    learner, parts = new_learner(config)
    other, _ = new_learner(config)
    results = [work.run(parts, item, learner.snapshot()) for item in work.plan(config, 0, 0)]
    spelt_out = []
    for result in results:
        gradient, update = (v.numpy() for v in reported(result, learner.layout.size, len(learner.state.policy)))
        spelt_out.append(replace(result, gradient=gradient, policy_update=update, probes=()))
    assert learner.step(results) == other.step(spelt_out)
    assert_same_state(learner.state, other.state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["above", "below"])
def test_a_probe_with_a_nonfinite_loss_is_counted_and_not_applied(
    value: float, side: str, tiny_config: Any, new_learner: Any
) -> None:
    learner, parts = new_learner(tiny_config("phases=[" + ES.removeprefix("phases.1=") + "]"))
    results = [work.run(parts, item, learner.snapshot()) for item in work.plan(learner.config, 0, 0)]
    broken = dataclasses.replace(results[1].probes[0], **{side: value})
    results[1] = replace(results[1], probes=(broken, *results[1].probes[1:]))
    assert learner.step(results).verdicts == {Verdict.ACCEPTED: 2, Verdict.NONFINITE: 1}
    assert torch.isfinite(learner.state.theta).all()


def test_a_direction_follows_from_its_seed_alone() -> None:
    one, other = perturbation(7, 50, 3), perturbation(7, 50, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], perturbation(8, 50, 3)[0])
    many = perturbation(1, 100_000, 0)[0].numpy()
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1, abs=0.02)
    assert not slopes([Probe(1, 0.1, 0.1, 2.0, 2.0)], 5, 5)[0].any()
