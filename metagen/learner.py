"""The central learner: judge results, apply them in a fixed order, count the version up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.flat import Layout
from metagen.outer import Moments, OuterConfig, adam, direction, no_moments
from metagen.policies import Explorer, Policy
from metagen.probes import reported
from metagen.records import Experience, Snapshot, Verdict, WorkResult, packed, unpacked
from metagen.work import build_policy


@dataclass(frozen=True)
class MetaState:
    """All that the learner knows: what a checkpoint must hold to continue bit for bit."""

    theta: Tensor
    """Meta-parameters of the generator ``[P]``."""
    policy: Tensor
    """Parameters of the optimisation policy ``[G]``."""
    mean: Tensor
    """Running mean of theta ``[P]``; theta itself where the config keeps none."""
    moments: Moments
    policy_moments: Moments
    step: int = 0
    """Outer steps applied."""
    version: int = 0
    applied: tuple[tuple[int, str], ...] = ()
    """(version, work_id) of results applied that could still come again."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Verdicts so far."""
    tasks: int = 0
    """Tasks applied so far."""
    recent: tuple[Snapshot, ...] = ()
    """Versions before this one, oldest first, that steps to come are estimated at (``max_staleness``)."""


def initial_state(theta: Tensor, policy: Policy, layout: Layout) -> MetaState:
    """The state before the first step."""
    vector = policy.initial(layout)
    return MetaState(theta, vector, theta.clone(), no_moments(len(theta)), no_moments(len(vector)))


@dataclass(frozen=True)
class Applied:
    """What one outer step did."""

    metrics: dict[str, float]
    verdicts: dict[Verdict, int]
    learning_rate: float
    gradient_norm: float
    tasks: int


class Learner:
    """Holds the state and turns results into the next one."""

    def __init__(self, config: RunConfig, layout: Layout, state: MetaState) -> None:
        self.config, self.layout, self.state = config, layout, state
        self.policy = build_policy(config)

    def snapshot(self, step: int | None = None) -> Snapshot:
        """The version that outer ``step`` is estimated at, as it travels; without ``step`` the current one."""
        state = self.state
        if step is not None and (age := state.step - self.config.basis(step)) > 0:
            return state.recent[-age]
        return Snapshot(state.version, packed(state.theta, self.config.dtype), packed(state.policy, torch.float32))

    def judge(self, result: WorkResult, seen: set[str]) -> Verdict:
        """What to make of ``result``, given the ids ``seen`` so far; nothing is changed."""
        if result.work_id in seen:
            return Verdict.DUPLICATE
        if self.state.version - result.version > self.config.max_staleness:
            return Verdict.STALE
        vectors = unpacked(result.gradient), unpacked(result.policy_update)
        largest = [float(v.abs().max()) for v in vectors if len(v)]  # carries nan on; cheaper than isfinite
        probed = [loss for probe in result.probes for loss in (probe.above, probe.below)]
        lived = [x for e in result.experiences for x in (*e.features, *e.action, e.log_probability, e.reward)]
        if not all(map(math.isfinite, [*largest, *probed, *lived, *result.metrics.values()])):
            return Verdict.NONFINITE
        return Verdict.ACCEPTED

    def step(self, results: Iterable[WorkResult]) -> Applied:
        """Apply one outer step from ``results``, in the order of their index whatever order they came in.

        Raises ``UserError`` if none of them can be accepted: the run has diverged.
        """
        seen = {work_id for _, work_id in self.state.applied}
        verdicts: Counter[Verdict] = Counter()
        accepted: list[WorkResult] = []
        for result in sorted(results, key=lambda r: (r.step, r.index, r.version)):
            verdict = self.judge(result, seen)
            verdicts[verdict] += 1
            if verdict is Verdict.ACCEPTED:
                accepted.append(result)
                seen.add(result.work_id)
        if not accepted:
            raise UserError(
                f"step {self.state.step + 1}: no usable result ({', '.join(f'{n} {v}' for v, n in verdicts.items())}): "
                "the run has diverged; lower outer.learning_rate or outer.clip and resume"
            )
        weights = np.array([r.tasks for r in accepted], dtype=np.float64)
        weights /= weights.sum()
        gradient, policy_gradient = torch.zeros(self.layout.size), torch.zeros(len(self.state.policy))
        for result, weight in zip(accepted, weights.tolist(), strict=True):
            slope, policy_slope = reported(result, len(gradient), len(policy_gradient))
            gradient.add_(slope, alpha=weight)
            policy_gradient.add_(policy_slope, alpha=weight)
        names = {name for result in accepted for name in result.metrics}
        metrics = {
            name: float(sum(w * r.metrics.get(name, 0.0) for w, r in zip(weights, accepted, strict=True)))
            for name in sorted(names)
        }
        rate, norm, learned = self._apply(gradient, policy_gradient, accepted, verdicts)
        metrics |= {f"policy/{name}": value for name, value in learned.items()}
        return Applied(metrics, dict(verdicts), rate, norm, sum(r.tasks for r in accepted))

    def _apply(
        self, gradient: Tensor, policy_gradient: Tensor, accepted: list[WorkResult], verdicts: Counter[Verdict]
    ) -> tuple[float, float, dict[str, float]]:
        state = self.state
        number, step = self.config.phase_at(state.step)
        phase = self.config.phases[number]
        moments = state.moments
        share = phase.outer.rate(step, phase.steps)
        norm = float(gradient.norm())
        theta = state.theta
        if not phase.outer.freeze_generator:
            theta, moments = meta_update(theta, gradient, norm, moments, phase.outer, self.layout, share)
        lived = [experience for result in accepted for experience in result.experiences]
        policy, policy_moments, learned = self._policy_update(policy_gradient, lived, phase.outer, share)
        mean = self._mean(state.mean, theta, state.step)
        if step + 1 == phase.steps:  # the next phase starts from the mean, with an optimiser of its own
            theta = mean.clone()
            moments, policy_moments = no_moments(len(theta)), no_moments(len(policy))
        version = state.version + 1
        oldest = version - self.config.max_staleness
        applied = [*state.applied, *((result.version, result.work_id) for result in accepted)]
        ahead = self.config.max_staleness
        recent = (*state.recent, self.snapshot())[-ahead:] if ahead and step + 1 < phase.steps else ()
        self.state = MetaState(
            theta=theta,
            policy=policy,
            mean=mean,
            moments=moments,
            policy_moments=policy_moments,
            step=state.step + 1,
            version=version,
            # An older result is stale anyway; one version more is kept so that a repeat is named as such.
            applied=tuple((v, i) for v, i in applied if v >= oldest - 1),
            counts={v: state.counts.get(v, 0) + verdicts[v] for v in Verdict},
            tasks=state.tasks + sum(result.tasks for result in accepted),
            recent=recent,
        )
        return share * phase.outer.learning_rate, norm, learned

    def _policy_update(
        self, gradient: Tensor, experiences: list[Experience], outer: OuterConfig, share: float
    ) -> tuple[Tensor, Moments, dict[str, float]]:
        """The policy's parameters ``[G]`` after the step, by Adam; from experiences in ``policy_epochs`` steps."""
        vector, moments, metrics = self.state.policy, self.state.policy_moments, {}
        if not len(vector):
            return vector, moments, {}
        for _ in range(outer.policy_epochs if experiences else 1):
            slope = gradient
            if experiences:
                assert isinstance(self.policy, Explorer)  # or whose choices were they?
                improvement = self.policy.improve(vector, experiences)
                slope, metrics = slope + improvement.gradient, improvement.metrics
            direction, moments = adam(slope, moments, 0.9, 0.99)
            vector = vector - share * outer.policy_learning_rate * direction
        return vector, moments, metrics

    def _mean(self, mean: Tensor, theta: Tensor, step: int) -> Tensor:
        if not self.config.ema:
            return theta
        decay = min(self.config.ema, (1 + step) / (10 + step))
        return torch.lerp(theta, mean, decay)


def meta_update(
    theta: Tensor,
    gradient: Tensor,
    norm: float,
    moments: Moments,
    outer: OuterConfig,
    layout: Layout,
    share: float,
) -> tuple[Tensor, Moments]:
    """One step of the outer optimiser on ``theta [P]`` at ``share`` of its learning rate."""
    if norm > outer.clip:
        gradient = gradient * (outer.clip / norm)
    towards, moments = direction(outer, layout, gradient, moments)
    return torch.sub(theta, towards, alpha=share * outer.learning_rate), moments
