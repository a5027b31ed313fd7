"""The central learner: judge results, apply them in a fixed order, count the version up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metagen import work
from metagen.config import RunConfig
from metagen.flat import Layout
from metagen.guard import Diverged, Watch, anchor_due, new_phase, observe, relapses, rolled_back
from metagen.outer import Moments, OuterConfig, adam, direction, no_moments
from metagen.policies import Explorer, Improvement
from metagen.records import (
    Experience,
    Outcome,
    Piece,
    Quarantined,
    Snapshot,
    Verdict,
    WorkResult,
    finite,
    packed,
)
from metagen.state import MetaState, Vectors, from_anchor, initial_state, owed_after, to_anchor
from metagen.wire import total

AddUp = Callable[[Sequence[WorkResult], Sequence[float], int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Applied:
    """What one outer step did."""

    metrics: dict[str, float]
    verdicts: dict[Verdict, int]
    learning_rate: float
    gradient_norm: float
    """Of the meta-gradient, before clipping."""
    tasks: int
    outcomes: tuple[Outcome, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    rolled_back: bool = False
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """The results of one step, judged."""

    accepted: list[WorkResult] = field(default_factory=list)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    broken: list[Quarantined] = field(default_factory=list)
    taken: list[Piece] = field(default_factory=list)
    """Pieces of work that these results are the end of."""


class Learner:
    """Holds the state and turns results into the next one."""

    def __init__(self, config: RunConfig, layout: Layout, state: MetaState) -> None:
        self.config, self.layout, self.state = config, layout, state
        self.policy = work.build_policy(config)

    @staticmethod
    def of(parts: work.Parts, state: MetaState | None = None) -> Learner:
        """The learner of a run, at ``state`` or before its first step."""
        network = parts.problem.network
        begun = state or initial_state(network.initial, parts.policy, network.layout)
        return Learner(parts.config, network.layout, begun)

    def basis(self, step: int) -> int:
        """The outer step whose version workers estimate ``step`` at: the config's, or the last rollback's if later."""
        return max(self.config.basis(step), self.state.watch.since)

    def snapshot(self, step: int | None = None) -> Snapshot:
        """The version that outer ``step`` is estimated at, as it travels; without ``step`` the current one."""
        state = self.state
        if step is not None and (age := state.step - self.basis(step)) > 0:
            return state.recent[-age]
        return Snapshot(state.version, packed(state.theta, self.config.dtype), packed(state.policy, torch.float32))

    def judge(self, result: WorkResult, seen: set[str]) -> Verdict:
        """What to make of ``result``, given the ids ``seen`` so far; nothing is changed."""
        if result.work_id in seen:
            return Verdict.DUPLICATE
        if self.state.version - result.version > self.config.max_staleness:
            return Verdict.STALE
        return Verdict.NONFINITE if nonfinite_parts(result) else Verdict.ACCEPTED

    def step(self, results: Iterable[WorkResult], add_up: AddUp = total) -> Applied:
        """Apply one outer step from ``results``, in the order of their index whatever order they came in.

        ``add_up`` makes the weighted sum of those that are accepted: a pool may do so where they are.

        Raises ``Diverged``, a ``UserError``, and leaves the state as it is, if none of them can be accepted, or at the
        end of a run of steps with non-finite results, or if the guard would go back once too often.
        """
        judged = self._judged(results)
        accepted, verdicts, broken = judged.accepted, judged.verdicts, tuple(judged.broken)
        self._check_usable(accepted, verdicts, broken)
        weights = np.array([r.tasks for r in accepted], dtype=np.float64)
        weights /= weights.sum()
        shares = self._damped(weights, accepted)
        gradient, policy_gradient = add_up(accepted, shares, self.layout.size, len(self.state.policy))
        names = {name for result in accepted for name in result.metrics}
        metrics = {
            name: float(sum(w * r.metrics.get(name, 0.0) for w, r in zip(weights, accepted, strict=True)))
            for name in sorted(names)
        }
        norm = float(gradient.norm())
        watch = observe(self.config.guard, self._watch(), metrics["loss"], verdicts[Verdict.NONFINITE] > 0)
        back = self._must_go_back(watch, metrics["loss"], broken)
        rate, learned = self._apply(gradient, policy_gradient, norm, judged, watch, back)
        metrics |= {f"policy/{name}": value for name, value in learned.metrics.items()}
        done = sum(r.tasks for r in accepted)
        return Applied(metrics, dict(verdicts), rate, norm, done, tuple(judged.outcomes), broken, back, learned.samples)

    def _judged(self, results: Iterable[WorkResult]) -> Judged:
        """All of ``results`` judged, in the order of their index."""
        seen = {work_id for _, work_id in self.state.applied}
        held = {snapshot.version: snapshot for snapshot in (*self.state.recent, self.snapshot())}
        judged = Judged()
        for result in sorted(results, key=lambda r: (r.step, r.index, r.version)):
            verdict = self.judge(result, seen)
            judged.verdicts[verdict] += 1
            r, age = result, self.state.version - result.version
            judged.outcomes.append(Outcome(r.work_id, r.index, r.version, age, verdict, r.worker, r.seconds))
            if verdict in (Verdict.ACCEPTED, Verdict.NONFINITE):
                judged.taken.append((result.step, result.index))
            if verdict is Verdict.ACCEPTED:
                judged.accepted.append(result)
                seen.add(result.work_id)
            # A straggler of a version that is no longer held cannot be replayed: it is counted alone.
            elif verdict is Verdict.NONFINITE and result.version in held:
                judged.broken.append(self._quarantined(result, held[result.version]))
        return judged

    def _damped(self, weights: NDArray[np.float64], results: list[WorkResult]) -> list[float]:
        """``weights`` of gradients, in mode async times ``(1 + age) ** -age_power``.

        Polynomial staleness weights (Xie et al. 2019, FedAsync, arXiv:1903.03934, section 5.2). They are not
        normalised: a step of old results is a smaller one.
        """
        if self.config.mode == "sync":
            return weights.tolist()
        ages = np.array([self.state.version - result.version for result in results])
        return (weights * (1.0 + ages) ** -self.config.age_power).tolist()

    def _watch(self) -> Watch:
        first = self.config.phase_at(self.state.step)[1] == 0
        return new_phase(self.state.watch) if first else self.state.watch

    def _quarantined(self, result: WorkResult, snapshot: Snapshot) -> Quarantined:
        item = work.item(self.config, result.step, result.index, result.version)
        return Quarantined(item, snapshot, nonfinite_parts(result), result.worker)

    def _check_usable(
        self, accepted: list[WorkResult], verdicts: Counter[Verdict], broken: tuple[Quarantined, ...]
    ) -> None:
        """Raise ``Diverged`` where nothing is left to apply, or non-finite results have come for too long."""
        step = self.state.step + 1
        if not accepted:
            raise Diverged(
                f"step {step}: no usable result ({', '.join(f'{n} {v}' for v, n in verdicts.items())}): the run has "
                "diverged; lower outer.learning_rate or outer.clip and start it again",
                broken,
            )
        steps = self.state.watch.nonfinite + 1
        if verdicts[Verdict.NONFINITE] and steps >= self.config.guard.nonfinite_steps:
            raise Diverged(
                f"step {step}: {steps} steps in a row had non-finite results (guard.nonfinite_steps): see what "
                "'metagen replay RUN_DIR WORK_ID' says of them, or lower outer.learning_rate and start again",
                broken,
            )

    def _must_go_back(self, watch: Watch, loss: float, broken: tuple[Quarantined, ...]) -> bool:
        guard = self.config.guard
        if watch.high < guard.patience:
            return False
        before = relapses(guard, watch, self.state.version + 1)
        if before >= guard.rollbacks:
            raise Diverged(
                f"step {self.state.step + 1}: diverged again after {before} rollbacks (loss {loss:.4g}, level "
                f"{watch.score:.4g}): lower outer.learning_rate and start again, or raise guard.factor",
                broken,
            )
        return True

    def _apply(
        self,
        gradient: Tensor,
        policy_gradient: Tensor,
        norm: float,
        judged: Judged,
        watch: Watch,
        back: bool,
    ) -> tuple[float, Improvement]:
        """Step, or go ``back`` to the anchor; gives the learning rate and what the policy's update measured."""
        state, version = self.state, self.state.version + 1
        number, step = self.config.phase_at(state.step)
        phase = self.config.phases[number]
        share, last = phase.outer.rate(step, phase.steps), step + 1 == phase.steps
        vectors, learned = self._stepped(gradient, policy_gradient, norm, judged.accepted, phase.outer, share)
        anchor = state.anchor
        if back:  # the step counts as taken, so that the run goes on with other tasks than those it diverged on
            vectors, watch = from_anchor(anchor), rolled_back(self.config.guard, watch, version)
        if last:  # the next phase starts from the mean, with an optimiser of its own
            none = no_moments(len(vectors.theta)), no_moments(len(vectors.policy))
            vectors, anchor = Vectors(vectors.mean.clone(), vectors.policy, vectors.mean, *none), {}
        if not back and anchor_due(self.config.guard, watch, step + 1, anchor):
            anchor = to_anchor(vectors)
        ahead = self.config.max_staleness
        # Whoever gave it out again did so before it was applied, so its copies are of this version at the latest.
        applied = [*state.applied, *((state.version, result.work_id) for result in judged.accepted)]
        recent = (*state.recent, self.snapshot())[-ahead:] if ahead and not last and not back else ()
        self.state = MetaState(
            **vectors._asdict(),
            step=state.step + 1,
            version=version,
            # An older result is stale anyway; one version more is kept so that a repeat is named as such.
            applied=tuple((v, i) for v, i in applied if v >= version - ahead - 1),
            owed=owed_after(self.config, state, judged.taken) if self.config.mode == "async" else (),
            counts={v: state.counts.get(v, 0) + judged.verdicts[v] for v in Verdict},
            tasks=state.tasks + (0 if back else sum(result.tasks for result in judged.accepted)),
            recent=recent,
            watch=watch,
            anchor=anchor,
        )
        return share * phase.outer.learning_rate, learned

    def _stepped(
        self,
        gradient: Tensor,
        policy_gradient: Tensor,
        norm: float,
        accepted: list[WorkResult],
        outer: OuterConfig,
        share: float,
    ) -> tuple[Vectors, Improvement]:
        """What a step at ``share`` of the learning rates makes of the state; and what the policy's update measured."""
        state = self.state
        theta, moments = state.theta, state.moments
        if not outer.freeze_generator:
            theta, moments = meta_update(theta, gradient, norm, moments, outer, self.layout, share)
        lived = [experience for result in accepted for experience in result.experiences]
        policy, policy_moments, learned = self._policy_update(policy_gradient, lived, outer, share)
        return Vectors(theta, policy, self._mean(theta), moments, policy_moments), learned

    def _policy_update(
        self, gradient: Tensor, experiences: list[Experience], outer: OuterConfig, share: float
    ) -> tuple[Tensor, Moments, Improvement]:
        """The policy's parameters ``[G]`` after the step, by Adam; from experiences in ``policy_epochs`` steps."""
        vector, moments, improvement = self.state.policy, self.state.policy_moments, Improvement(gradient, {}, {})
        if not len(vector):
            return vector, moments, improvement
        for _ in range(outer.policy_epochs if experiences else 1):
            slope = gradient
            if experiences:
                assert isinstance(self.policy, Explorer)  # or whose choices were they?
                improvement = self.policy.improve(vector, experiences)
                slope = slope + improvement.gradient
            direction, moments = adam(slope, moments, 0.9, 0.99)
            vector = vector - share * outer.policy_learning_rate * direction
        return vector, moments, improvement

    def _mean(self, theta: Tensor) -> Tensor:
        """The running mean ``[P]`` once ``theta`` is in it; its first steps weigh more."""
        if not self.config.ema:
            return theta
        step = self.state.step
        decay = min(self.config.ema, (1 + step) / (10 + step))
        return torch.lerp(theta, self.state.mean, decay)


def nonfinite_parts(result: WorkResult) -> tuple[str, ...]:
    """What of a result is NaN or infinite: its vectors, ``probes``, ``experiences``, metrics by name."""
    vectors = {"gradient": result.gradient, "policy_update": result.policy_update}
    probed = sum(abs(loss) for probe in result.probes for loss in (probe.above, probe.below))
    lived = sum(abs(x) for e in result.experiences for x in (*e.features, *e.action, e.log_probability, e.reward))
    values = {"probes": probed, "experiences": lived, **result.metrics}
    wild = [name for name, value in values.items() if not math.isfinite(value)]
    return (*(name for name, vector in vectors.items() if not finite(vector)), *wild)


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
