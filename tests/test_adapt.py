from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen import work
from metagen.adapt import Inner, adapt
from metagen.errors import UserError
from metagen.generators import Condition
from metagen.policies import REGISTRY, Gradient, Policy, Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.policies.rules import RULES
from metagen.problem import Look, Problem
from metagen.registry import options_of
from metagen.seeding import torch_generator


def _policy(name: str, **options: Any) -> Policy:
    policy: Policy = REGISTRY[name](options_of("policy", REGISTRY[name], options))
    return policy


def _adapt(problem: Problem, theta: Tensor, support: Tensor, steps: int, seed: int = 0, name: str = "fixed") -> Any:
    options = {"ridge": {"strength": 0.1}, "stochastic": {"step_sizes": {"adam": 0.01}, "counts": (30,)}}
    policy = _policy(name, **options.get(name, {"step_size": 0.01}))
    run = Run(policy.initial(problem.network.layout), problem.network.layers)
    return adapt(problem, theta, support, policy, run, steps, torch_generator(seed))


def _support(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch_generator(seed, "support"))


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("shots", [1, 2, 5])
def test_adapting_yields_the_start_and_each_step_and_changes_no_input(toy_problem: Any, name: str, shots: int) -> None:
    problem, support = toy_problem(), _support(shots)
    theta = problem.network.initial.clone()
    taken, path = [], []
    for step in _adapt(problem, theta, support, 4, name=name):
        taken.append(step.taken)
        path.append(step.parameters.clone())
        assert (step.taken == 0) == (step.support_loss != step.support_loss)
    assert taken == [0, 1, 2, 3, 4]
    assert torch.equal(path[0], theta)
    assert torch.equal(theta, problem.network.initial)
    assert torch.equal(support, _support(shots))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(path))
    assert all(torch.isfinite(parameters).all() for parameters in path)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_one_seed_gives_one_adaptation_and_seeds_differ(toy_problem: Any, name: str) -> None:
    problem = toy_problem()
    ends = []
    for seed in (1, 1, 2):
        *_, last = _adapt(problem, problem.network.initial, _support(), 3, seed, name)
        ends.append((last.parameters.clone(), last.support_loss))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert not torch.equal(ends[0][0], ends[2][0])


def test_no_steps_is_the_starting_point_alone(toy_problem: Any) -> None:
    problem = toy_problem()
    [step] = _adapt(problem, problem.network.initial, _support(), 0)
    assert step.taken == 0
    assert torch.equal(step.parameters, problem.network.initial)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_support_loss_falls(toy_problem: Any, name: str) -> None:
    problem = toy_problem(noise=0.0)
    losses = [step.support_loss for step in _adapt(problem, problem.network.initial, _support(), 30, name=name)]
    assert losses[-1] < 0.8 * losses[1]


def test_the_way_there_does_not_depend_on_how_far_it_goes(toy_problem: Any) -> None:
    problem = toy_problem()
    short = [step.parameters.clone() for step in _adapt(problem, problem.network.initial, _support(), 2)]
    long = [step.parameters.clone() for step in _adapt(problem, problem.network.initial, _support(), 5)]
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))


def test_more_noise_draws_leave_a_noiseless_adaptation_as_it_is(toy_problem: Any) -> None:
    ends = []
    for draws in (1, 3):
        problem = toy_problem(noise=0.0, draws=draws)
        *_, last = _adapt(problem, problem.network.initial, _support(), 3)
        ends.append(last.parameters.clone())
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("shots", [2, 3, 7])
def test_each_image_is_conditioned_on_all_the_others(shots: int) -> None:
    condition = Condition.leave_one_out(_support(shots))
    assert condition.members.shape == (shots, shots)
    for k in range(shots):
        assert condition.members[k].tolist() == [float(j != k) for j in range(shots)]


def test_one_image_alone_is_conditioned_on_itself() -> None:
    assert Condition.leave_one_out(_support(1)).members.tolist() == [[1.0]]


@pytest.mark.parametrize(("shots", "count"), [(5, 2), (5, 3), (5, 4), (3, 9), (2, 2)])
def test_withheld_are_an_image_itself_and_others_that_change(shots: int, count: int) -> None:
    rng = torch_generator("withheld")
    drawn = [Condition.withholding(_support(shots), count, rng).members for _ in range(50)]
    for members in drawn:
        assert members.diagonal().eq(0).all()
        assert members.sum(1).tolist() == [max(1, shots - count)] * shots
    seen = torch.stack(drawn).mean(0)
    assert (seen + torch.eye(shots) > 0).all()  # each of the others is shown at times


def test_withholding_one_is_leaving_one_out_and_draws_nothing() -> None:
    rng = torch_generator("withheld")
    before = rng.get_state()
    members = Condition.withholding(_support(4), 1, rng).members
    assert torch.equal(members, Condition.leave_one_out(_support(4)).members)
    assert torch.equal(rng.get_state(), before)


def test_an_inner_step_shows_as_few_as_the_config_says(tiny_config: Any) -> None:
    problem = work.build_problem(tiny_config("episode.withheld=4"))
    policy = Fixed(FixedOptions())
    inner = Inner.of(problem, policy, problem.network.initial, torch.rand(5, 1, 16, 16))
    [look] = inner.looks(problem.network.initial, 0, torch_generator("looks"))
    assert look.condition.members.sum(1).tolist() == [1.0] * 5


def test_each_task_sees_its_own_support_images() -> None:
    support = torch.stack([_support(3, seed) for seed in range(2)])
    condition = Condition.of_tasks(support)
    assert torch.equal(condition.support, support.flatten(0, 1))
    assert condition.members.tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


def test_a_problems_gradient_is_the_slope_of_its_loss(toy_problem: Any) -> None:
    problem = toy_problem()
    theta = problem.network.initial.double()
    condition, images = Condition.leave_one_out(_support()), _support(8, seed=1)
    loss, gradient = problem.gradient(theta, condition, images, torch_generator(0))
    assert loss == float(problem.loss(theta, condition, images, torch_generator(0)).mean())
    for index in range(0, len(theta), 7):
        shift = torch.zeros_like(theta)
        shift[index] = 1e-6
        above, below = (
            float(problem.loss(theta + sign * shift, condition, images, torch_generator(0)).mean()) for sign in (1, -1)
        )
        assert float(gradient[index]) == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("patterns", [["2.*"], ["0.weight", "2.bias"]])
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("name", ["fixed", "learned-steps"])
def test_a_subset_is_adapted_and_the_rest_stays_as_it_was(
    toy_problem: Any, patterns: list[str], rule: str, name: str
) -> None:
    whole = toy_problem(noise=0.0)
    subset = whole.network.layout.subset(patterns)
    problem, theta, policy = replace(whole, adapted=subset), whole.network.initial, _policy(name, rule=rule)
    run = Run(policy.initial(problem.network.layout), problem.network.layers)
    steps = list(adapt(problem, theta, _support(), policy, run, 3, torch_generator(0)))
    for step in steps[1:]:
        assert torch.equal(step.parameters[~subset], theta[~subset])
        assert not torch.equal(step.parameters[subset], theta[subset])
    if name == "fixed":  # the first step of the subset is that of the whole, cut out of it
        run = Run(torch.zeros(0), problem.network.layers)
        _, first = adapt(whole, theta, _support(), policy, run, 1, torch_generator(0))
        assert torch.equal(steps[1].parameters[subset], first.parameters[subset])


def test_whatever_a_policy_does_the_rest_stays_as_it_was(toy_problem: Any) -> None:
    class Shrinking(Fixed):
        def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
            return 0.9 * super().step(run, parameters, gradient, step)

    problem = toy_problem()
    subset, theta = problem.network.layout.subset(["2.*"]), problem.network.initial
    policy, run = Shrinking(FixedOptions()), Run(torch.zeros(0), problem.network.layers)
    *_, last = adapt(replace(problem, adapted=subset), theta, _support(), policy, run, 3, torch_generator(0))
    assert torch.equal(last.parameters[~subset], theta[~subset])


@pytest.mark.parametrize(("shown", "share"), [(1, 0.0), (2, 0.25), (3, 0.5), (5, 1.0), (8, 1.0)])
@pytest.mark.parametrize("name", ["learned-steps", "alfa", "learned-optimiser", "fixed"])
def test_a_learned_policy_takes_smaller_steps_with_fewer_images_than_it_was_trained_at(
    toy_problem: Any, name: str, shown: int, share: float
) -> None:
    """In proportion to the others that each is seen beside; a fixed rule does as it is told."""
    problem = toy_problem()
    theta, support = problem.network.initial, _support(shown)
    problems = (problem, replace(problem, shots=5))
    whole, less = (list(_adapt(one, theta, support, 1, name=name))[-1].parameters - theta for one in problems)
    torch.testing.assert_close(less, whole * (1.0 if name == "fixed" else share), rtol=1e-4, atol=1e-7)
    assert whole.abs().max() > 0


def test_the_number_of_images_trained_at_is_the_configs_where_a_network_sees_them(tiny_config: Any) -> None:
    for conditioning, shots in (("spatial", 3), ("none", 1)):
        config = tiny_config(f"generator.architecture.set_conditioning={conditioning}", "episode.shots=3")
        assert work.build_problem(config).shots == shots


def test_a_proximal_term_is_a_pull_to_the_start(toy_problem: Any) -> None:
    """SGD on a loss linear in the parameters: ``phi_k - theta`` is a geometric sum of the first step."""
    problem = replace(toy_problem(linear=True, noise=0.0), proximal=2.0)
    theta, policy = problem.network.initial.double(), _policy("fixed", rule="sgd", step_size=0.1)
    run = Run(torch.zeros(0), problem.network.layers)
    path = [s.parameters - theta for s in adapt(problem, theta, _support(), policy, run, 4, torch_generator(0))]
    for k in range(1, 5):
        assert torch.allclose(path[k], path[1] * sum(0.8**j for j in range(k)), rtol=1e-6)


@pytest.mark.parametrize("member", ["losses", "scores"])
@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda images: images.square().mean(), r"a tensor \[\], not \[4\]"),
        (lambda images: images.flatten(1), r"a tensor \[4, 16\], not \[4\]"),
        (lambda images: 0.5, r"a float, not a tensor \[4\]"),
    ],
)
def test_what_a_family_gives_is_one_number_an_image_or_an_error(
    toy_problem: Any, monkeypatch: pytest.MonkeyPatch, member: str, gives: Any, words: str
) -> None:
    problem, images = toy_problem(), _support(4)
    monkeypatch.setattr(problem.family, member, lambda network, condition, images, draw: gives(images), raising=False)
    measure = problem.loss if member == "losses" else problem.scores
    with pytest.raises(UserError, match=rf"ToyFamily.{member} gave {words}"):
        measure(problem.network.initial, Condition.of_tasks(images[None]), images, torch_generator(0))


def test_so_are_losses_that_are_taken_of_several_tasks_at_once(
    toy_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, images = replace(toy_problem(), together=2), _support(4)
    monkeypatch.setattr(problem.family, "losses", lambda network, condition, images, draw: images.square().mean())
    draw = problem.family.draw(len(images), torch_generator(0))
    look = Look(problem.network.initial, Condition.of_tasks(images[None]), images, draw)
    with pytest.raises(UserError, match=r"ToyFamily.losses gave a tensor \[\], not \[4\]"):
        problem.gradients([look, look])
