from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metagen import work
from metagen.algorithms import REGISTRY, Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.joint import Joint, JointOptions
from metagen.algorithms.reptile import Reptile, ReptileOptions
from metagen.learner import Learner
from metagen.policies import Policy
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.ridge import Ridge, RidgeOptions
from metagen.policies.steps import LearnedSteps, LearnedStepsOptions
from metagen.policies.stochastic import Stochastic, StochasticOptions
from metagen.probes import reported
from metagen.problem import Problem
from metagen.records import unpacked
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode

LR = 0.01
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR),
    "momentum": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=LR),
}


def _episodes(count: int, shots: int = 3, queries: int = 4) -> list[Episode]:
    rng = torch_generator("episodes")
    pictures = torch.randn(count, shots + queries, 1, 4, 4, generator=rng)
    return [Episode(p[:shots], p[shots:], f"class{i}", i) for i, p in enumerate(pictures)]


def _estimate(
    estimator: Any, problem: Problem, theta: Tensor, episodes: list[Episode], policy: Any = None, seeds: Any = None
) -> Estimate:
    policy = policy or Fixed(FixedOptions(rule="adam", step_size=LR))
    vector = policy.initial(problem.network.layout)
    rngs = [torch_generator("noise", seed) for seed in seeds or range(len(episodes))]
    return estimator.estimate(problem, theta, policy, vector, episodes, rngs)


def _plain_loss(module: nn.Module, images: Tensor, sets: list[Tensor]) -> Tensor:
    """The toy family's loss without its noise, by hand: image ``i`` is conditioned on the mean of ``sets[i]``."""
    x = images.flatten(1).double()
    means = torch.stack([s.flatten(1).double().mean(0) for s in sets])
    return (module(x - means) - x).square().sum(1).mean()


def _others(images: Tensor) -> list[Tensor]:
    """For each image, all the others."""
    return [torch.cat([images[:k], images[k + 1 :]]) for k in range(len(images))]


def _module(problem: Problem, theta: Tensor) -> nn.Module:
    """A plain copy of the toy network at ``theta``, without flat vectors."""
    module = nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 16)).double()
    module.load_state_dict(problem.network.layout.unflatten(theta.double()))
    return module


def _gradient(problem: Problem, module: nn.Module, loss: Tensor) -> Tensor:
    slopes = torch.autograd.grad(loss, list(module.parameters()))
    names = [name for name, _ in module.named_parameters()]
    return problem.network.layout.flatten(dict(zip(names, slopes, strict=True)))


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_joint_matches_finite_differences(toy_problem: Any, noise: float) -> None:
    problem, episodes, estimator = toy_problem(noise=noise), _episodes(3), Joint(JointOptions(drop_condition=0.3))
    theta = problem.network.initial.double()
    estimate = _estimate(estimator, problem, theta, episodes)
    for index in range(0, len(theta), 5):
        shift = torch.zeros_like(theta)
        shift[index] = 1e-6
        above, below = (
            _estimate(estimator, problem, theta + sign * shift, episodes).metrics["loss"] for sign in (1, -1)
        )
        assert float(estimate.gradient[index]) == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-5)


def test_joint_is_the_gradient_of_the_mean_query_loss_at_theta(toy_problem: Any) -> None:
    problem, episodes = toy_problem(noise=0.0), _episodes(3)
    theta = problem.network.initial
    estimate = _estimate(Joint(JointOptions(drop_condition=0.0)), problem, theta, episodes)
    module = _module(problem, theta)
    loss = torch.stack([_plain_loss(module, e.query, [e.support] * len(e.query)) for e in episodes]).mean()
    assert torch.allclose(estimate.gradient, _gradient(problem, module, loss), rtol=1e-5, atol=1e-6)
    assert estimate.metrics["loss"] == pytest.approx(loss.item())


def test_joint_drops_the_condition_of_as_many_tasks_as_it_is_told_to(toy_problem: Any) -> None:
    """Each task's loss is one of two numbers, with or without its support set; the mean tells how many are which."""
    problem, theta = toy_problem(noise=0.0), toy_problem().network.initial
    [episode] = _episodes(1)
    module = _module(problem, theta)
    empty = [torch.zeros_like(episode.support)] * len(episode.query)
    kept = _plain_loss(module, episode.query, [episode.support] * len(episode.query)).item()
    dropped = _plain_loss(module, episode.query, empty).item()
    estimate = _estimate(Joint(JointOptions(drop_condition=0.25)), problem, theta, [episode] * 400)
    share = (estimate.metrics["loss"] - kept) / (dropped - kept)
    assert share == pytest.approx(0.25, abs=0.08)
    assert share * 400 == pytest.approx(round(share * 400), abs=1e-3)


@pytest.mark.parametrize("rule", sorted(OPTIMIZERS))
def test_fomaml_is_the_weighted_sum_of_query_gradients_along_a_plain_loop(toy_problem: Any, rule: str) -> None:
    problem, episodes = toy_problem(noise=0.0, draws=2), _episodes(2)
    theta, weights = problem.network.initial, {0: 1.0, 2: 3.0, 5: 4.0}
    policy = Fixed(FixedOptions(rule=rule, step_size=LR))
    estimate = _estimate(Fomaml(FomamlOptions(query_at=weights)), problem, theta, episodes, policy)

    expected, losses = torch.zeros_like(theta), dict.fromkeys(weights, 0.0)
    for episode in episodes:
        module = _module(problem, theta)
        optimizer = OPTIMIZERS[rule](module.parameters())
        for step in range(max(weights) + 1):
            if step in weights:
                query_loss = _plain_loss(module, episode.query, [episode.support] * len(episode.query))
                expected += weights[step] / 8 * _gradient(problem, module, query_loss) / len(episodes)
                losses[step] += query_loss.item() / len(episodes)
            optimizer.zero_grad()
            _plain_loss(module, episode.support, _others(episode.support)).backward()
            optimizer.step()
    assert torch.allclose(estimate.gradient, expected, rtol=1e-4, atol=1e-5)
    for step, loss in losses.items():
        assert estimate.metrics[f"query_loss/{step}"] == pytest.approx(loss, rel=1e-5)
    assert estimate.metrics["loss"] == pytest.approx(sum(weights[k] / 8 * loss for k, loss in losses.items()), rel=1e-5)


@pytest.mark.parametrize("rule", sorted(OPTIMIZERS))
def test_reptile_is_theta_minus_where_a_plain_loop_over_all_the_images_ends(toy_problem: Any, rule: str) -> None:
    problem, episodes, steps = toy_problem(noise=0.0), _episodes(2), 4
    theta, policy = problem.network.initial, Fixed(FixedOptions(rule=rule, step_size=LR))
    estimate = _estimate(Reptile(ReptileOptions(inner_steps=steps)), problem, theta, episodes, policy)

    expected, first = torch.zeros_like(theta), 0.0
    for episode in episodes:
        module = _module(problem, theta)
        optimizer, images = OPTIMIZERS[rule](module.parameters()), torch.cat([episode.support, episode.query])
        for step in range(steps):
            optimizer.zero_grad()
            loss = _plain_loss(module, images, _others(images))
            loss.backward()
            first += loss.item() / len(episodes) if step == 0 else 0.0
            optimizer.step()
        phi = problem.network.layout.flatten(dict(module.named_parameters()))
        expected += (theta - phi) / len(episodes)
    assert torch.allclose(estimate.gradient, expected, rtol=1e-4, atol=1e-6)
    assert estimate.metrics["loss"] == pytest.approx(first, rel=1e-5)


def test_fomaml_without_inner_steps_is_the_joint_gradient(toy_problem: Any) -> None:
    problem, [episode] = toy_problem(noise=0.0), _episodes(1)
    theta = problem.network.initial
    fomaml = _estimate(Fomaml(FomamlOptions(query_at={0: 2.0})), problem, theta, [episode])
    joint = _estimate(Joint(JointOptions(drop_condition=0.0)), problem, theta, [episode])
    assert torch.allclose(fomaml.gradient, joint.gradient, rtol=1e-6, atol=1e-8)
    assert fomaml.metrics["loss"] == pytest.approx(joint.metrics["loss"])


def test_every_query_of_an_episode_uses_the_same_noise(toy_problem: Any) -> None:
    """Steps too small to move anything leave the query loss where it was, to the last bit."""
    problem = toy_problem(noise=1.0)
    still = Fixed(FixedOptions(rule="sgd", step_size=1e-30))
    estimator = Fomaml(FomamlOptions(query_at={0: 1.0, 1: 1.0, 4: 1.0}))
    metrics = _estimate(estimator, problem, problem.network.initial, _episodes(2), still).metrics
    assert metrics["query_loss/0"] == metrics["query_loss/1"] == metrics["query_loss/4"]


@pytest.mark.parametrize("estimator", [Fomaml(FomamlOptions(query_at={0: 1, 3: 1})), Reptile(ReptileOptions())])
def test_an_estimate_is_the_mean_over_its_episodes(toy_problem: Any, estimator: Any) -> None:
    problem, episodes = toy_problem(), _episodes(3)
    theta = problem.network.initial
    policy = LearnedSteps(LearnedStepsOptions(rule="adam", step_size=LR, horizon=3))
    whole = _estimate(estimator, problem, theta, episodes, policy)
    single = [_estimate(estimator, problem, theta, [e], policy, [i]) for i, e in enumerate(episodes)]
    assert torch.allclose(whole.gradient, sum(s.gradient for s in single) / 3, rtol=1e-4, atol=1e-6)
    assert torch.allclose(whole.policy_gradient, sum(s.policy_gradient for s in single) / 3, rtol=1e-4, atol=1e-6)
    for name, value in whole.metrics.items():
        assert value == pytest.approx(sum(s.metrics[name] for s in single) / 3, rel=1e-5)


def test_with_equal_votes_every_task_moves_the_policy_as_far(toy_problem: Any) -> None:
    """And in its own direction: what the mean of the lengths leaves is the mean of the directions."""
    problem, episodes = toy_problem(), _episodes(3)
    theta, options = problem.network.initial, {"query_at": {0: 1.0, 3: 1.0}}
    policy = LearnedSteps(LearnedStepsOptions(rule="adam", step_size=LR, horizon=3))
    single = [
        _estimate(Fomaml(FomamlOptions(**options)), problem, theta, [e], policy, [i]) for i, e in enumerate(episodes)
    ]
    voted = _estimate(Fomaml(FomamlOptions(**options, equal_votes=True)), problem, theta, episodes, policy)
    plain = _estimate(Fomaml(FomamlOptions(**options)), problem, theta, episodes, policy)
    directions = [s.policy_gradient / s.policy_gradient.norm() for s in single]
    assert torch.allclose(voted.policy_gradient, sum(directions) / 3, rtol=1e-4, atol=1e-6)
    assert torch.equal(voted.gradient, plain.gradient)
    assert not torch.allclose(voted.policy_gradient, plain.policy_gradient)


def test_a_task_without_an_opinion_has_no_vote(toy_problem: Any) -> None:
    problem = toy_problem()
    policy = LearnedSteps(LearnedStepsOptions(rule="adam", step_size=LR, horizon=3))
    options = FomamlOptions(query_at={0: 1.0}, equal_votes=True)
    found = _estimate(Fomaml(options), problem, problem.network.initial, _episodes(1), policy)
    assert torch.equal(found.policy_gradient, torch.zeros_like(found.policy_gradient))


def _suited(name: str, problem: Problem) -> tuple[Problem, Policy]:
    """A policy, and a problem, that the estimator works with."""
    needs = REGISTRY[name].needs
    policy: Policy = LearnedSteps(LearnedStepsOptions(horizon=3))
    if needs.solver or needs.explorer:
        policy = Ridge(RidgeOptions()) if needs.solver else Stochastic(StochasticOptions())
    return replace(problem, proximal=10.0 if needs.proximal else 0.0), policy


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_an_estimator_changes_no_input_and_one_seed_gives_one_estimate(toy_problem: Any, name: str) -> None:
    (problem, policy), episodes = _suited(name, toy_problem()), _episodes(2)
    theta = problem.network.initial.clone()
    estimator = REGISTRY[name](REGISTRY[name].Options())
    one, same = (_estimate(estimator, problem, theta, episodes, policy) for _ in range(2))
    assert torch.equal(theta, problem.network.initial)
    for episode, untouched in zip(episodes, _episodes(2), strict=True):
        assert torch.equal(episode.support, untouched.support)
        assert torch.equal(episode.query, untouched.query)
    assert torch.equal(one.gradient, same.gradient)
    assert torch.equal(one.policy_gradient, same.policy_gradient)
    assert (one.probes, one.experiences) == (same.probes, same.experiences)
    assert one.metrics == same.metrics
    other = _estimate(estimator, problem, theta, episodes, policy, [8, 9])
    assert other.metrics != one.metrics
    assert other.probes != one.probes or not torch.equal(one.gradient, other.gradient)


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("shots", [1, 4])
def test_every_estimator_reports_gradients_of_the_right_size_and_finite_numbers(
    name: str, shots: int, tiny_config: Any, new_learner: Any
) -> None:
    needs = REGISTRY[name].needs
    policy = [f"policy.proximal={10 * needs.proximal}"]
    if needs.solver or needs.explorer:
        policy = [f"policy={{name: {'ridge' if needs.solver else 'stochastic'}}}"]
    config = tiny_config(f"phases.1.estimator={name}", "phases.1.options={}", f"episode.shots={shots}", *policy)
    learner, parts = new_learner(config)
    [item, *_] = work.plan(config, 3, 0)
    result = work.run(parts, item, learner.snapshot())
    gradient, update = reported(result, learner.layout.size, len(learner.state.policy))
    assert gradient.shape == (learner.layout.size,)
    assert update.shape == (len(learner.state.policy),)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(update).all()
    assert {"loss", "query_loss/0"} <= set(result.metrics)
    assert bool(update.any()) == (name in ("fomaml", "maml", "es", "closed-form"))
    assert bool(result.experiences) == needs.explorer


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_reptile_with_an_outer_optimiser_is_that_optimiser_on_theta_minus_where_adaptation_ended(
    optimizer: str, tiny_config: Any, new_learner: Any
) -> None:
    """SGD at rate 1 is Reptile's interpolation; Nesterov is DiLoCo's outer loop (Douillard et al. 2023,
    arXiv:2311.08105)."""
    outer = f"{{optimizer: {optimizer}, learning_rate: 0.7, clip: 1e9, warmup: 0, schedule: constant}}"
    phase = f"{{estimator: reptile, options: {{inner_steps: 2}}, steps: 3, items: 2, tasks: 1, outer: {outer}}}"
    config = tiny_config(f"phases=[{phase}]", "ema=0", "policy={name: fixed, options: {step_size: 1e-3}}")
    learner, parts = new_learner(config)
    parameter = nn.Parameter(learner.state.theta.clone())
    outside: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD([parameter], lr=0.7),
        "nesterov": lambda: torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam([parameter], lr=0.7, betas=(0.9, 0.99)),
    }[optimizer]()
    for step in range(3):
        results = [work.run(parts, item, learner.snapshot()) for item in work.plan(config, step, step)]
        parameter.grad = torch.stack([unpacked(result.gradient) for result in results]).mean(0)
        learner.step(results)
        outside.step()
        assert torch.allclose(learner.state.theta, parameter.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [0, 3])
def test_bf16_is_within_two_percent_of_fp32(step: int, tiny_config: Any, new_learner: Any) -> None:
    """In the direction of the meta-gradient and in the loss; step 0 is of the joint phase, step 3 of fomaml."""
    learner: Learner
    results = []
    for precision in ("fp32", "bf16"):
        config = tiny_config(f"precision={precision}", "phases.1.options.query_at={0: 1, 2: 1}", "episode.queries=8")
        learner, parts = new_learner(config)
        noise = torch.randn(learner.layout.size, generator=torch_generator("theta"))
        learner.state = replace(learner.state, theta=learner.state.theta + 0.05 * noise)  # every layer is at work
        results.append(work.run(parts, work.plan(config, step, 0)[0], learner.snapshot()))
    full, half = (unpacked(result.gradient).double() for result in results)
    assert float(torch.cosine_similarity(full, half, dim=0)) > 0.98
    assert results[1].metrics["loss"] == pytest.approx(results[0].metrics["loss"], rel=0.02)
