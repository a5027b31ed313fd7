"""Which estimator works with which family and policy; the rest is refused before anything starts."""

from __future__ import annotations

from typing import Any

from metagen.algorithms.estimator import Needs


def refusal(
    estimator: Any, family: Any, policy: Any, proximal: float = 0.0, subset: bool = False, relocate: bool = False
) -> str | None:
    """Why the classes cannot work together, in one line that says what to do; None if they can.

    A class of a user's own that states no needs and no limits is taken to fit.
    """
    needs: Needs = getattr(estimator, "needs", Needs())
    solves, linear = hasattr(policy, "solve"), getattr(family, "least_squares", None) is not None
    limit = getattr(family, "first_order_only", None)
    if solves and not linear:
        return "the policy solves for the last layer, and the family's loss is not least squares in it: use another"
    if solves and (proximal or subset):
        return "the policy solves for the last layer: policy.adapt and policy.proximal are of no use, leave them out"
    if solves and relocate:
        return "the policy solves for the last layer, on the images as they are: leave episode.relocate out"
    if needs.solver and not solves:
        return "adapts in closed form: use policy ridge"
    if needs.gradient_steps and solves:
        return "needs a policy that steps along gradients, this one solves: use estimator closed-form or es"
    if needs.explorer and not hasattr(policy, "improve"):
        return "learns from the rewards of a policy's choices: use policy stochastic"
    if needs.policy_derivative and not getattr(policy, "differentiable", True):
        return "differentiates the policy, whose choices have no derivative: use ppo, fomaml, reptile or es"
    if needs.second_order and limit:
        return f"needs second derivatives, and the family has none ({limit}): use fomaml, reptile or es"
    if needs.proximal and not proximal:
        return "needs an inner loss with a minimum near theta: set policy.proximal above 0, such as 1"
    return None


def unseen(estimator: Any, options: Any, policy_options: Any) -> str | None:
    """Why choices would go unrewarded, in one line that says what to do: steps beyond those that are looked at."""
    longest, looked = getattr(policy_options, "longest", 0), getattr(options, "query_at", {})
    if not getattr(estimator, "needs", Needs()).explorer or not looked or longest <= max(looked):
        return None
    return (
        f"the policy may choose {longest} steps, and rewards are taken up to step {max(looked)}: give "
        f"options.query_at a step {longest}, or policy.options.counts none above {max(looked)}"
    )
