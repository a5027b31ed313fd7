from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.adapt import adapt
from metagen.errors import UserError
from metagen.outer import adam, no_moments
from metagen.policies import Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.policy import Choice
from metagen.policies.ppo import advantages, objective
from metagen.policies.rules import RULES
from metagen.policies.stochastic import ACTION, FEATURES, Stochastic, StochasticOptions
from metagen.records import Experience
from metagen.seeding import torch_generator

SUPPORT = torch.randn(4, 1, 4, 4, generator=torch_generator("support"))


def _policy(**options: Any) -> Stochastic:
    return Stochastic(StochasticOptions(**options))


def _some_vector(policy: Stochastic) -> Tensor:
    start = policy.initial(None)  # type: ignore[arg-type]
    return start + 0.3 * torch.randn(len(start), generator=torch_generator("vector"))


def _seen(count: int) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch_generator("features"))


def _experiences(policy: Stochastic, vector: Tensor, reward: Callable[[Choice], float], count: int, seed: int) -> Any:
    rng = torch_generator("tasks", seed)
    choices = [policy.choose(vector, torch.randn(FEATURES, generator=rng), rng) for _ in range(count)]
    return [Experience(*choice, reward(choice)) for choice in choices]


def test_a_choice_on_what_is_not_a_number_is_reported_as_such() -> None:
    """Of a theta that has diverged: the learner counts it, and leaves it out as any result that is not finite."""
    policy, seen = _policy(), torch.full((FEATURES,), math.nan)
    choice = policy.choose(_some_vector(policy), seen, torch_generator("draws"))
    assert math.isnan(choice.log_probability)


def test_an_experience_is_drawn_with_the_probability_that_it_reports() -> None:
    """Frequencies of the discrete parts, means and deviations of the continuous ones."""
    policy, rng, N = _policy(spread=0.4), torch_generator("draws"), 2000
    vector, seen = _some_vector(policy), _seen(1)
    choices = [policy.choose(vector, seen[0], rng) for _ in range(N)]
    actions, heads = torch.tensor([choice.action for choice in choices]), policy.heads(vector, seen)
    assert actions.shape == (N, ACTION)
    for column, distribution in ((0, heads.rule), (3, heads.steps)):
        shares = torch.bincount(actions[:, column].long(), minlength=distribution.probs.shape[1]) / N
        assert torch.allclose(shares, distribution.probs[0], atol=0.03)
    for rule in range(len(policy.rules)):
        mine = actions[actions[:, 0] == rule]
        for column, normal in ((1, heads.size), (2, heads.momentum)):
            assert float(mine[:, column].mean()) == pytest.approx(float(normal.mean[0, rule]), abs=0.1)
            assert float(mine[:, column].std()) == pytest.approx(float(normal.stddev[0, rule]), rel=0.2)
    reported = torch.tensor([choice.log_probability for choice in choices])
    assert torch.allclose(
        reported, policy.log_probability(policy.heads(vector, seen.expand(N, -1)), actions), atol=1e-4
    )
    # Where a momentum is of no use it counts nothing; elsewhere the entropy is the mean of -log pi.
    assert float(policy.entropy(heads)) == pytest.approx(-float(reported.mean()), abs=0.06)


def test_the_gradient_is_that_of_finite_differences() -> None:
    policy = _policy(hidden=3, step_sizes={"adam": 0.1, "sgd": 0.1}, entropy=0.05)
    behind, vector = policy.initial(None), _some_vector(policy).double()  # type: ignore[arg-type]
    experiences = _experiences(policy, behind + 0.2 * (vector.float() - behind), lambda c: 0.02 * c.action[1], 12, 0)
    seen, actions = (torch.tensor([getattr(e, n) for e in experiences]).double() for n in ("features", "action"))
    old, reward = (torch.tensor([getattr(e, n) for e in experiences]).double() for n in ("log_probability", "reward"))
    fixed = advantages(reward, policy.heads(vector, seen).value)

    def loss(at: Tensor) -> float:
        heads = policy.heads(at, seen)
        new, entropy = policy.log_probability(heads, actions), policy.entropy(heads)
        return float(objective(new, old, fixed, heads.value, reward, entropy, policy.options))

    slope = policy.improve(vector, experiences).gradient
    assert slope.dtype == torch.float64
    for index in range(len(vector)):
        shift = torch.zeros_like(vector)
        shift[index] = 1e-6
        difference = (loss(vector + shift) - loss(vector - shift)) / 2e-6
        assert float(slope[index]) == pytest.approx(difference, rel=1e-4, abs=1e-7)


def _train(policy: Stochastic, reward: Callable[[Choice], float], steps: int, delay: int = 0) -> Tensor:
    """PPO on a bandit; actions are drawn from the policy as it was ``delay`` steps before."""
    vector = policy.initial(None)  # type: ignore[arg-type]
    moments, past = no_moments(len(vector)), [vector]
    for step in range(steps):
        experiences = _experiences(policy, past[max(0, step - delay)], reward, 32, step)
        direction, moments = adam(policy.improve(vector, experiences).gradient, moments, 0.9, 0.99)
        vector = vector - 0.05 * min(1.0, 3 * (1 - step / steps)) * direction
        past.append(vector)
    return vector


@pytest.mark.parametrize("delay", [0, 3])
def test_on_a_bandit_it_converges_to_the_best_rule_step_size_and_steps(delay: int) -> None:
    """The best is sign at 1e-3 in 5 steps; every nat and every other choice costs."""
    policy = _policy(counts=(20, 10, 5), step_sizes=dict.fromkeys(RULES, 1e-4))

    def reward(choice: Choice) -> float:
        rule, size, _, count = choice.action
        right = policy.rules[int(rule)] == "sign", policy.counts[int(count)] == 5
        return 0.02 * sum(right) - 0.01 * abs(size - math.log(1e-3))

    vector = _train(policy, reward, 120, delay)
    modes = [policy.choose(vector, row, None).action for row in _seen(100)]
    assert {(policy.rules[int(rule)], policy.counts[int(count)]) for rule, _, _, count in modes} == {("sign", 5)}
    errors = torch.tensor([size for _, size, _, _ in modes]) - math.log(1e-3)
    assert float(errors.abs().mean()) < 0.5  # from 2.3 at the start


def test_where_the_best_rule_differs_by_task_it_finds_it_for_at_least_95_percent() -> None:
    """Adam where the gradient is long, sgd where it is not."""
    policy = _policy(step_sizes={"adam": 1e-3, "sgd": 1e-3}, counts=(5,))

    def right(choice: Choice) -> float:
        return float((policy.rules[int(choice.action[0])] == "adam") == (choice.features[1] > 0))

    vector = _train(policy, lambda choice: 0.02 * right(choice), 120)
    seen = _seen(400)
    seen = seen[seen[:, 1].abs() > 0.1]
    assert sum(right(policy.choose(vector, row, None)) for row in seen) / len(seen) >= 0.95


@pytest.mark.parametrize("rule", ["sgd", "adam", "muon"])
def test_the_mode_at_the_start_is_the_fixed_rule_and_stops_at_its_count(toy_problem: Any, rule: str) -> None:
    problem = toy_problem()
    theta, layers = problem.network.initial, problem.network.layers
    policy = _policy(rule=rule, step_sizes={"sgd": 0.01, "adam": 0.02, "muon": 0.03}, counts=(3, 6))
    fixed = Fixed(FixedOptions(rule=rule, step_size=policy.options.step_sizes[rule]))
    # Both look at halves of the support set, so that they see the same gradients.
    fixed.wants_halves = policy.wants_halves  # type: ignore[method-assign]
    paths = [
        list(adapt(problem, theta, SUPPORT, p, Run(p.initial(problem.network.layout), layers), 6, torch_generator(0)))
        for p in (policy, fixed)
    ]
    for mine, other in zip(paths[0][:4], paths[1], strict=False):
        assert torch.allclose(mine.parameters, other.parameters, atol=1e-6)
    assert all(step.parameters is paths[0][3].parameters for step in paths[0][4:])
    assert [step.taken for step in paths[0]] == list(range(7))


def test_without_a_generator_choices_are_the_mode_and_with_one_they_are_its_draws(toy_problem: Any) -> None:
    problem, policy = toy_problem(), _policy()
    vector = policy.initial(problem.network.layout)

    def chosen(rng: torch.Generator | None) -> Choice:
        run = Run(vector, problem.network.layers, rng=rng)
        list(adapt(problem, problem.network.initial, SUPPORT, policy, run, 1, torch_generator(0)))
        assert run.choice is not None
        return run.choice

    mode = chosen(None)
    assert mode == chosen(None)
    assert policy.rules[int(mode.action[0])] == "adam"
    assert mode.action[1] == pytest.approx(math.log(3e-5), rel=1e-5)
    drawn = [chosen(torch_generator(seed)) for seed in range(8)]
    assert drawn == [chosen(torch_generator(seed)) for seed in range(8)]
    assert len({choice.action for choice in drawn}) == 8
    assert {choice.features for choice in drawn} == {mode.features}


@pytest.mark.parametrize(
    ("chooses", "differ"), [(["size"], [1]), (["rule"], [0, 1]), (["steps"], [3]), (["rule", "momentum"], [0, 1, 2])]
)
def test_what_is_not_chosen_stays_at_its_start_whatever_is_learned(chooses: list[str], differ: list[int]) -> None:
    """A rule brings its own step size. The probability and the entropy are those of what is chosen."""
    policy, rng, N = _policy(chooses=chooses, counts=[4, 2]), torch_generator("draws"), 300
    vector, seen = _some_vector(policy), _seen(1)
    choices = [policy.choose(vector, seen[0], rng) for _ in range(N)]
    actions = torch.tensor([choice.action for choice in choices])
    assert [i for i in range(ACTION) if len(actions[:, i].unique()) > 1] == differ
    for choice in choices[:20]:
        name = policy.rules[int(choice.action[0])]
        if "size" not in chooses:
            assert choice.action[1] == pytest.approx(math.log(policy.options.step_sizes[name]), rel=1e-5)
    heads = policy.heads(vector, seen)
    reported = torch.tensor([choice.log_probability for choice in choices])
    assert float(policy.entropy(heads)) == pytest.approx(-float(reported.mean()), abs=0.15)


def test_the_size_of_the_vector_does_not_depend_on_the_network(toy_problem: Any) -> None:
    sizes = {len(_policy().initial(toy_problem(linear=linear).network.layout)) for linear in (False, True)}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_sizes": {"adm": 1e-3}}, "unknown rule 'adm'; did you mean 'adam'"),
        ({"step_sizes": {"adam": 0}}, "step_sizes: 0 for 'adam': give a step size above 0"),
        ({"rule": "sgd", "step_sizes": {"adam": 1e-3}}, "rule: 'sgd' has no step size"),
        ({"counts": [5, 5]}, "counts: give different numbers"),
        ({"counts": []}, "counts: "),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        StochasticOptions.parse(options)
    assert "\n" not in str(caught.value)
