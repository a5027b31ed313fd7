from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from metagen import work
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.ppo import Ppo, PpoEstimatorOptions
from metagen.errors import UserError
from metagen.outer import adam
from metagen.policies.stochastic import FEATURES, Stochastic, StochasticOptions
from metagen.records import Experience, Verdict

QUERY_AT = {0: 1.0, 2: 2.0, 5: 1.0}
LEARN = (
    "policy={name: stochastic, options: {counts: [2, 1], spread: 1.0}}",
    "phases.1.estimator=ppo",
    "phases.1.options={query_at: {0: 1, 2: 1}, rollouts: 2}",
)


def _policy(**options: Any) -> Stochastic:
    return Stochastic(StochasticOptions(step_sizes={"sgd": 0.02, "adam": 0.02}, **options))


def _sure(policy: Stochastic) -> Any:
    """A vector whose draws are the mode: no spread, one rule, one number of steps."""
    vector = policy.initial(None)  # type: ignore[arg-type]
    parts = vector.split([math.prod(shape) for shape in policy.shapes.values()])
    named = dict(zip(policy.shapes, parts, strict=True))
    named["heads_bias"][[0, -len(policy.counts)]] = 60.0
    named["log_spread"].fill_(-30.0)
    return vector


def test_the_reward_is_the_log_ratio_to_the_same_query_unadapted_less_the_cost(
    toy_problem: Any, episodes: Any, estimate: Any
) -> None:
    problem, policy = toy_problem(), _policy(counts=(3, 6))
    theta, vector = problem.network.initial.double(), _policy(counts=(3, 6)).initial(None)  # type: ignore[arg-type]
    estimator = Ppo(PpoEstimatorOptions(query_at=QUERY_AT, cost=0.3))
    found = estimate(estimator, problem, theta, episodes(), policy, vector)
    [lived] = found.experiences
    loss = {k: found.metrics[f"query_loss/{k}"] for k in QUERY_AT}
    gain = math.log(loss[0]) - (2 * math.log(loss[2]) + math.log(loss[5])) / 3
    count = policy.counts[int(lived.action[3])]
    assert lived.reward == pytest.approx(gain - 0.3 * count / 6)
    assert len(lived.features) == FEATURES
    plain = Ppo(PpoEstimatorOptions(query_at=QUERY_AT, reward="difference"))
    [other] = estimate(plain, problem, theta, episodes(), policy, vector).experiences
    assert other.action == lived.action
    assert other.reward == pytest.approx(loss[0] - (2 * loss[2] + loss[5]) / 3)


def test_where_nothing_is_left_to_chance_the_meta_gradient_is_fomamls(
    toy_problem: Any, episodes: Any, estimate: Any
) -> None:
    problem, policy = toy_problem(), _policy(counts=(6,))
    theta, vector = problem.network.initial.double(), _sure(policy)
    mine = estimate(Ppo(PpoEstimatorOptions(query_at=QUERY_AT)), problem, theta, episodes(2), policy, vector)
    other = estimate(Fomaml(FomamlOptions(query_at=QUERY_AT)), problem, theta, episodes(2), policy, vector)
    assert torch.allclose(mine.gradient, other.gradient, rtol=1e-5, atol=1e-7)
    assert mine.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-6)
    frozen = Ppo(PpoEstimatorOptions(query_at=QUERY_AT, meta_gradient=False))
    without = estimate(frozen, problem, theta, episodes(2), policy, vector)
    assert not without.gradient.any()
    assert [e.reward for e in without.experiences] == pytest.approx([e.reward for e in mine.experiences])


def test_rollouts_of_an_episode_share_all_noise_but_that_of_their_choices(
    toy_problem: Any, episodes: Any, estimate: Any
) -> None:
    problem, policy = toy_problem(noise=1.0), _policy(counts=(6,))
    theta = problem.network.initial.double()
    options = PpoEstimatorOptions(query_at=QUERY_AT, rollouts=3)
    sure = estimate(Ppo(options), problem, theta, episodes(), policy, _sure(policy)).experiences
    assert len(sure) == 3
    assert sure[0].reward == pytest.approx(sure[1].reward, rel=1e-9)
    open_ = estimate(Ppo(options), problem, theta, episodes(), policy, policy.initial(None)).experiences
    assert len({e.action for e in open_}) == len({e.reward for e in open_}) == 3
    assert len({e.features for e in open_}) == 1


def test_a_loss_without_a_logarithm_says_what_to_set(toy_problem: Any, episodes: Any, estimate: Any) -> None:
    problem, policy = toy_problem(linear=True), _policy()
    theta = problem.network.initial.double()
    for sign in (1, -1):  # one of the two losses, linear in theta, is negative
        if float(problem.loss(sign * theta, *_query(problem, episodes)).mean()) < 0:
            with pytest.raises(UserError, match=r"no logarithm: set the phase's options.reward=difference"):
                estimate(Ppo(PpoEstimatorOptions()), problem, 9 * sign * theta, episodes(), policy, _sure(policy))
            return
    raise AssertionError("neither loss is negative")


def _query(problem: Any, episodes: Any) -> Any:
    from metagen.generators import Condition
    from metagen.seeding import torch_generator

    [episode] = episodes()
    return Condition.of_tasks(episode.support[None]), episode.query, torch_generator("noise", 0)


def test_a_reward_needs_a_step_above_0() -> None:
    with pytest.raises(UserError, match="query_at: give a step above 0 a weight above 0"):
        PpoEstimatorOptions.parse({"query_at": {0: 1.0}})


def _at_the_second_phase(new_learner: Any, config: Any) -> Any:
    learner, parts = new_learner(config)
    for step in range(3):
        learner.step([work.run(parts, item, learner.snapshot()) for item in work.plan(config, step, step)])
    return learner, [work.run(parts, item, learner.snapshot()) for item in work.plan(config, 3, 3)]


def test_both_signals_of_a_result_are_applied_at_one_version(tiny_config: Any, new_learner: Any) -> None:
    learner, results = _at_the_second_phase(new_learner, tiny_config(*LEARN, "ema=0"))
    before = learner.state
    applied = learner.step(results)
    assert learner.state.version == before.version + 1
    assert not torch.equal(learner.state.theta, before.theta)
    experiences = [e for r in sorted(results, key=lambda r: r.index) for e in r.experiences]
    assert len(experiences) == 6
    improvement = learner.policy.improve(before.policy, experiences)
    slope, _ = adam(improvement.gradient, before.policy_moments, 0.9, 0.99)
    outer = learner.config.phases[1].outer
    assert torch.equal(learner.state.policy, before.policy - outer.rate(0, 2) * outer.policy_learning_rate * slope)
    assert {"policy/reward", "policy/entropy", "policy/kl", "policy/clip_fraction", "policy/rule/adam"} <= set(
        applied.metrics
    )


def test_the_order_of_results_does_not_matter_to_experiences(
    tiny_config: Any, new_learner: Any, assert_same_state: Any
) -> None:
    one, results = _at_the_second_phase(new_learner, tiny_config(*LEARN))
    other, _ = _at_the_second_phase(new_learner, tiny_config(*LEARN))
    assert one.step(results) == other.step(results[::-1])
    assert_same_state(one.state, other.state)


def test_epochs_are_steps_on_the_same_experiences(tiny_config: Any, new_learner: Any) -> None:
    learner, results = _at_the_second_phase(new_learner, tiny_config(*LEARN, "phases.1.outer.policy_epochs=3"))
    applied = learner.step(results)
    assert float(learner.state.policy_moments["count"]) == 3
    assert applied.metrics["policy/kl"] > 0  # at the last of them the policy is no more the one that drew


@pytest.mark.parametrize("field", ["reward", "log_probability", "features"])
def test_an_experience_that_is_not_finite_is_counted_and_not_applied(
    field: str, tiny_config: Any, new_learner: Any
) -> None:
    learner, results = _at_the_second_phase(new_learner, tiny_config(*LEARN))
    broken: Experience = results[0].experiences[0]
    value: Any = (math.nan,) * FEATURES if field == "features" else math.inf
    results[0] = replace(results[0], experiences=(replace(broken, **{field: value}),))
    assert learner.step(results).verdicts == {Verdict.NONFINITE: 1, Verdict.ACCEPTED: 2}
    assert torch.isfinite(learner.state.policy).all()
