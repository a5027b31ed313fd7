"""A policy that chooses, for each task, the update rule, its step size and momentum, and when to stop; learned by
reinforcement (in the spirit of Li & Malik 2017, arXiv:1606.01885), from rewards that actors report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.distributions import Categorical, Normal

from metagen.flat import Layers, Layout
from metagen.policies import agreement
from metagen.policies.mlp import hidden_layer, parts_of
from metagen.policies.policy import Choice, Gradient, Improvement, Run
from metagen.policies.ppo import PpoOptions, advantages, diagnostics, objective
from metagen.policies.rules import RULES, known_rule, safe_root
from metagen.records import Experience
from metagen.seeding import torch_generator
from metagen.tasks.categories import PLACE, as_features
from metagen.tasks.embedding import SIZE, embed

FEATURES = 6 + SIZE + PLACE
ACTION = 4
"""Rule, log step size, logit of the momentum's decay, number of steps."""
WITHOUT_MOMENTUM = "sgd"
SURE = 50.0
"""Logit of what is not left to choice."""
Part = Literal["rule", "size", "momentum", "steps"]
PARTS: tuple[Part, ...] = ("rule", "size", "momentum", "steps")


class StochasticOptions(PpoOptions):
    rule: str = "adam"
    """The rule that is likeliest until something is learned."""
    step_sizes: dict[str, float] = Field({"adam": 3e-5, "sgd": 1e-3, "momentum": 1e-4, "sign": 1e-5, "muon": 3e-5})
    """The rules to choose from, with where their step sizes start."""
    counts: tuple[int, ...] = Field((20, 10, 5), min_length=1)
    """Numbers of inner steps to choose from; the first is the mode until something is learned."""
    momentum: float = Field(0.9, gt=0, lt=1)
    """Where the decay of the momentum starts."""
    spread: float = Field(0.7, gt=0)
    """Where the standard deviation of the log step size starts, in nats; that of the momentum's logit too."""
    chooses: tuple[Part, ...] = Field(PARTS, min_length=1)
    """What is chosen for each task; the rest stays at its start."""
    hidden: int = Field(16, ge=1)
    """Width of the hidden layer."""

    @model_validator(mode="after")
    def _choices(self) -> StochasticOptions:
        for rule, size in self.step_sizes.items():
            known_rule(rule)
            if size <= 0:
                raise ValueError(f"step_sizes: {size:g} for '{rule}': give a step size above 0, such as 3e-5")
        if self.rule not in self.step_sizes:
            raise ValueError(f"rule: '{self.rule}' has no step size in step_sizes: give it one or choose another")
        if min(self.counts) < 1 or len(set(self.counts)) < len(self.counts):
            raise ValueError("counts: give different numbers of steps of at least 1, such as [20, 10, 5]")
        return self

    @property
    def longest(self) -> int:
        """The largest number of steps that can be chosen; 0 where that is not left to choice."""
        return max(self.counts) if "steps" in self.chooses else 0


class Heads(NamedTuple):
    """What the network says of ``N`` tasks; distributions over the ``R`` rules and what goes with each of them."""

    rule: Categorical
    size: Normal
    """Log step size, ``[N, R]``."""
    momentum: Normal
    """Logit of the momentum's decay, ``[N, R]``."""
    steps: Categorical
    value: Tensor
    """Expected reward ``[N]``."""


class Stochastic:
    """``a ~ pi(a | features)`` at the first inner step of a task, then ``phi -= size * rule(gradient)`` until the
    chosen number of steps is taken::

        pi(a | f) = Cat(rule | f) N(log size | f, rule) N(logit momentum | f, rule) Cat(count | f)

    All heads, and a baseline ``V(f)``, are linear in hidden layers of their own over the features: log loss, log
    norm of the gradient, mean and spread over layers of its log RMS, agreement of two halves of the support set,
    log shots, all at theta, the embedding of the support set, and where tasks are sorted its novelty and category.
    Their number, and so that of the policy's parameters, does not depend on the network that is adapted.

    Without a generator to draw with (``run.rng``) the choice is the mode: evaluation and ``metagen adapt`` are
    deterministic.
    """

    Options = StochasticOptions
    differentiable = False

    def __init__(self, options: StochasticOptions) -> None:
        self.options, self.rules, self.counts = options, sorted(options.step_sizes), options.counts
        R, C, H = len(self.rules), len(self.counts), options.hidden
        self.shapes = {
            "hidden": (H, FEATURES),
            "hidden_bias": (H,),
            "heads": (3 * R + C, H),
            "heads_bias": (3 * R + C,),
            "log_spread": (2, R),
            "value_hidden": (H, FEATURES),
            "value_hidden_bias": (H,),
            "value": (1, H),
            "value_bias": (1,),
        }
        self.has_momentum = torch.tensor([rule != WITHOUT_MOMENTUM for rule in self.rules], dtype=torch.float32)
        self._start, self._learned = self._heads_at_the_start()

    def initial(self, layout: Layout) -> Tensor:
        """Hidden layers at random, by a seed of their own; heads that say the options' start whatever the task."""
        rng, parts = torch_generator("stochastic policy"), {n: torch.zeros(s) for n, s in self.shapes.items()}
        for name in ("hidden", "value_hidden"):
            parts[name] = torch.randn(self.shapes[name], generator=rng)
        parts["heads_bias"] = torch.where(self._learned, self._start, 0.0)
        parts["log_spread"][:] = math.log(self.options.spread)
        return torch.cat([part.flatten() for part in parts.values()])

    def _heads_at_the_start(self) -> tuple[Tensor, Tensor]:
        """What the heads say before anything is learned ``[3 R + C]``, and which of it is ever learned, bool."""
        options, R, C = self.options, len(self.rules), len(self.counts)
        rule, count = torch.zeros(R), torch.zeros(C)
        rule[self.rules.index(options.rule)] = 1.0 if "rule" in options.chooses else SURE
        if "steps" not in options.chooses:
            count[0] = SURE
        size = torch.tensor([options.step_sizes[rule] for rule in self.rules]).log()
        momentum = torch.full((R,), math.log(options.momentum / (1 - options.momentum)))
        learned = [torch.full((C if part == "steps" else R,), part in options.chooses) for part in PARTS]
        return torch.cat([rule, size, momentum, count]), torch.cat(learned)

    def wants_halves(self, step: int) -> bool:
        return step == 0

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        if step == 0:
            run.choice = self.choose(run.vector.detach().cpu(), features(run.layers, gradient), run.rng)
        assert run.choice is not None
        rule, size, momentum, count = run.choice.action
        steps = self.counts[int(count)]
        run.finished = step + 1 >= steps
        if step >= steps:
            return parameters
        name = self.rules[int(rule)]
        decay = () if name == WITHOUT_MOMENTUM else (1 / (1 + math.exp(-momentum)),)
        direction = RULES[name](*decay)(run.state, gradient.mean, step, run.layers)
        run.took(name, parameters.new_tensor(size).expand(run.layers.count))
        return torch.sub(parameters, direction, alpha=math.exp(size))

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        """None: choices have no derivative. ``improve`` learns from rewards instead."""
        return torch.zeros_like(run.vector)

    def choose(self, vector: Tensor, seen: Tensor, rng: torch.Generator | None) -> Choice:
        """Draw an action for a task with features ``seen [F]``, or take the mode if ``rng`` is None."""
        with torch.no_grad():
            heads = self.heads(vector, seen[None])
            rule, count = (_drawn(d.logits[0], rng) for d in (heads.rule, heads.steps))
            noise = torch.zeros(2) if rng is None else torch.randn(2, generator=rng)
            size = heads.size.mean[0, rule] + heads.size.stddev[0, rule] * noise[0] * self._counts("size")
            momentum = heads.momentum.mean[0, rule]
            momentum = momentum + heads.momentum.stddev[0, rule] * noise[1] * self._counts("momentum")
            action = torch.stack([torch.tensor(float(rule)), size, momentum, torch.tensor(float(count))])
            log_probability = float(self.log_probability(heads, action[None]))
        return Choice(tuple(seen.tolist()), tuple(action.tolist()), log_probability)

    def heads(self, vector: Tensor, seen: Tensor) -> Heads:
        """The distributions for tasks with features ``seen [N, F]``."""
        p = parts_of(vector, self.shapes)
        R, C = len(self.rules), len(self.counts)
        hidden = hidden_layer(seen, p["hidden"], p["hidden_bias"])
        said = hidden @ p["heads"].T + p["heads_bias"]
        rule, size, momentum, count = torch.where(self._learned, said, self._start.to(said)).split([R, R, R, C], dim=1)
        spread = p["log_spread"].exp()
        value_hidden = hidden_layer(seen, p["value_hidden"], p["value_hidden_bias"])
        value = self.options.reward_unit * (value_hidden @ p["value"].T + p["value_bias"])[:, 0]
        return Heads(
            Categorical(logits=rule, validate_args=False),
            Normal(size, spread[0].expand_as(size), validate_args=False),
            Normal(momentum, spread[1].expand_as(momentum), validate_args=False),
            Categorical(logits=count, validate_args=False),
            value,
        )

    def log_probability(self, heads: Heads, actions: Tensor) -> Tensor:
        """``log pi(a | f)``: ``[N]`` for ``actions [N, 4]``. A momentum that the rule has no use for counts nothing."""
        rule, size, momentum, count = actions.unbind(1)
        chosen = rule.long()[:, None]
        sized = heads.size.log_prob(size[:, None]).gather(1, chosen)[:, 0]
        momenta = heads.momentum.log_prob(momentum[:, None]) * self.has_momentum.to(momentum)
        momenta = momenta.gather(1, chosen)[:, 0]
        parts = {"rule": heads.rule.log_prob(rule), "size": sized, "momentum": momenta}
        parts["steps"] = heads.steps.log_prob(count)
        return sum((parts[part] for part in self.options.chooses), torch.zeros_like(size))

    def entropy(self, heads: Heads) -> Tensor:
        """``H(pi(. | f))``: ``[N]``; in nats."""
        given = heads.size.entropy() * self._counts("size")
        given = given + heads.momentum.entropy() * self.has_momentum.to(heads.value) * self._counts("momentum")
        discrete = heads.rule.entropy() * self._counts("rule") + heads.steps.entropy() * self._counts("steps")
        return discrete + (heads.rule.probs * given).sum(1)

    def _counts(self, part: Part) -> float:
        """1 for what is chosen, 0 for what stays at its start."""
        return float(part in self.options.chooses)

    def improve(self, vector: Tensor, experiences: Sequence[Experience]) -> Improvement:
        """The gradient ``[G]`` of PPO's objective on the experiences of a step, and what was measured."""
        seen, actions = (torch.tensor([getattr(e, n) for e in experiences]).to(vector) for n in ("features", "action"))
        behaviour, reward = (
            torch.tensor([getattr(e, n) for e in experiences]).to(vector) for n in ("log_probability", "reward")
        )
        vector = vector.detach().requires_grad_()
        heads = self.heads(vector, seen)
        new, entropy = self.log_probability(heads, actions), self.entropy(heads)
        advantage = advantages(reward, heads.value)
        loss = objective(new, behaviour, advantage, heads.value, reward, entropy, self.options)
        (slope,) = torch.autograd.grad(loss, vector)
        found = diagnostics(new.detach(), behaviour, heads.value.detach(), reward, entropy.detach(), self.options)
        shares = torch.bincount(actions[:, 0].long(), minlength=len(self.rules)) / len(actions)
        found |= {f"rule/{rule}": share for rule, share in zip(self.rules, shares.tolist(), strict=True)}
        found["log10_step_size"] = float(actions[:, 1].mean()) / math.log(10)
        found["steps"] = sum(self.counts[int(count)] for count in actions[:, 3].tolist()) / len(actions)
        return Improvement(slope, found, {"chosen_log10_step_size": tuple((actions[:, 1] / math.log(10)).tolist())})

    def cost(self, action: Sequence[float]) -> float:
        """``K / Kmax`` of the chosen number of steps."""
        return self.counts[int(action[3])] / max(self.counts)

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        """For a task whose features are all 0: log10 of the mean step size of each rule, and the rules' shares."""
        heads = self.heads(vector, torch.zeros(1, FEATURES))
        return {"log10_step_size": heads.size.mean[0] / math.log(10), "rule_probability": heads.rule.probs[0]}


def features(layers: Layers, gradient: Gradient) -> Tensor:
    """What the choice may depend on: ``[F]``, float32 on the CPU, each within a few units of 0."""
    mean = gradient.mean.detach()
    rms = safe_root(layers.mean_square(mean)).log10().clamp_min(-12.0)
    agreed, loss = mean.new_zeros(()), gradient.loss.detach().to(mean)
    if gradient.halves is not None:
        one, other = (half.detach() for half in gradient.halves)
        agreed = (one @ other) / (safe_root(one @ one) * safe_root(other @ other)) / agreement.DEVIATION
    own = torch.stack(
        [
            loss.sign() * loss.abs().log1p(),
            safe_root(mean @ mean).log10().clamp_min(-12.0) / 2,
            rms.mean() / 4,
            rms.std(correction=0),
            agreed.clamp(-3, 3),
            mean.new_tensor(math.log(len(gradient.support)) / 2),
        ]
    )
    return torch.cat([own.float().cpu(), embed(gradient.support).cpu(), as_features(gradient.place)])


def _drawn(logits: Tensor, rng: torch.Generator | None) -> int:
    """An index from the categorical of ``logits [N]``, or its mode.

    Where they are not numbers, of a theta that has diverged, any index will do: the learner leaves such choices out.
    """
    shares = logits.softmax(0)
    if rng is None or not bool(shares.isfinite().all()):
        return int(logits.argmax())
    return int(torch.multinomial(shares, 1, generator=rng))
