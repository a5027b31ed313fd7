"""The table of docs/estimators.md is what the code accepts, and what it does not accept it refuses in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metagen import algorithms, generators, policies
from metagen.compatibility import refusal
from metagen.errors import UserError

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"


def _accepted(estimator: str, family: str, policy: str) -> bool:
    classes = algorithms.REGISTRY[estimator], generators.REGISTRY[family], policies.REGISTRY[policy]
    proximal = 1.0 if algorithms.REGISTRY[estimator].needs.proximal else 0.0
    return refusal(*classes, proximal=proximal) is None


def _table(first: str) -> dict[str, dict[str, bool]]:
    """The table on the page whose first column is headed ``first``."""
    lines = PAGE.read_text().splitlines()
    [start] = [i for i, line in enumerate(lines) if line.startswith(f"| {first} |")]
    columns = [cell.strip(" `") for cell in lines[start].strip("|").split("|")][1:]
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        assert set(cells) <= {"yes", "no"}, line
        rows[name] = {column: cell == "yes" for column, cell in zip(columns, cells, strict=True)}
    return rows


def test_the_table_of_policies_is_what_the_code_accepts() -> None:
    """With a family that forbids nothing."""
    assert _table("estimator and policy") == {
        estimator: {policy: _accepted(estimator, "flow", policy) for policy in policies.REGISTRY}
        for estimator in algorithms.REGISTRY
    }


def test_the_table_of_families_is_what_the_code_accepts() -> None:
    """With some policy."""
    assert _table("estimator and family") == {
        estimator: {
            family: any(_accepted(estimator, family, policy) for policy in policies.REGISTRY)
            for family in generators.REGISTRY
        }
        for estimator in algorithms.REGISTRY
    }


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["phases.1={estimator: imaml}"], "estimator imaml .*: needs an inner loss .* set policy.proximal above 0"),
        (["phases.1={estimator: closed-form}"], "estimator closed-form .*: adapts in closed form: use policy ridge"),
        (["phases.1={estimator: ppo}"], "estimator ppo .*: learns from the rewards .*: use policy stochastic"),
        (
            ["policy={name: stochastic}", "phases.1={estimator: ppo, options: {query_at: {5: 1, 10: 1}}}"],
            "estimator ppo .*: the policy may choose 20 steps, and rewards are taken up to step 10: give .* a step 20",
        ),
        (["generator.family=gan", "together=4"], "together: family gan computes one task at a time: use 1 or auto"),
        (
            ["policy={name: stochastic}", "phases.1={estimator: maml}"],
            "estimator maml .*: differentiates the policy, whose choices have no derivative: use ppo, fomaml",
        ),
        (["policy={name: ridge}"], "estimator fomaml .*: needs a policy that steps along gradients, .* closed-form"),
        (
            ["policy={name: ridge, proximal: 1}", "phases.1={estimator: closed-form}"],
            "policy.adapt and policy.proximal are of no use, leave them out",
        ),
        (
            ["policy={name: ridge}", "phases.1={estimator: closed-form}", "episode.relocate=true"],
            "on the images as they are: leave episode.relocate out",
        ),
        (
            ["policy={name: ridge, adapt: ['out.*']}", "phases.1={estimator: closed-form}"],
            "policy.adapt and policy.proximal are of no use, leave them out",
        ),
        (["policy.adapt=['out.wieght']"], r"policy.adapt: 'out.wieght' matches no parameter; try out.weight"),
        (["policy.adapt=['out.*','*.fim.*']"], r"policy.adapt: '\*.fim.\*' matches no parameter; try "),
        (["policy.adapt=['qqq']"], r"policy.adapt: 'qqq' matches no parameter; try .*out\.\*"),
        (["policy.adapt=[]"], "policy.adapt: "),
    ],
)
def test_what_does_not_fit_is_one_line_at_config_time(assignments: list[str], message: str, tiny_config: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny_config(*assignments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_family_without_second_derivatives_says_why() -> None:
    class Players:
        first_order_only = "two players"

    for name, estimator in algorithms.REGISTRY.items():
        reason = refusal(estimator, Players, policies.REGISTRY["fixed"], proximal=1.0)
        assert (reason is not None and "two players" in reason) == estimator.needs.second_order, name


def test_a_users_own_parts_are_taken_to_fit() -> None:
    class Mine:
        pass

    assert refusal(Mine, generators.REGISTRY["flow"], policies.REGISTRY["fixed"]) is None
    assert refusal(algorithms.REGISTRY["maml"], Mine, Mine) is None


def test_the_subset_of_the_config_is_what_is_adapted(tiny_config: Any, new_learner: Any) -> None:
    config = tiny_config("policy.adapt=['out.*','*.film.*']")
    assert config.identity != tiny_config().identity
    _, parts = new_learner(config)
    layout = parts.problem.network.layout
    chosen = [name for i, name in enumerate(layout.names) if layout.view(parts.problem.adapted, i).all()]
    assert chosen == [name for name in layout.names if name.startswith("out.") or ".film." in name]
    assert sum(layout.view(parts.problem.adapted, i).any() for i in range(len(layout.names))) == len(chosen) > 2
