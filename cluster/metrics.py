"""A run's figures for Prometheus, through Ray: scraped at the metrics port of the node that the learner runs on."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from metagen.records import StepReport

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
AGES = [0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5]


class Metrics:
    """Ray prefixes all names with ``ray_``; every figure has the label ``run``. docs/observability.md lists them."""

    def __init__(self, run: str) -> None:
        self.run = {"run": run}
        self._seen: dict[str, int] = {}
        one, verdict, actor, part = ("run",), ("run", "verdict"), ("run", "actor"), ("run", "part")
        self.steps = Counter("metagen_steps", "Outer steps taken.", tag_keys=one)
        self.tasks = Counter("metagen_tasks", "Tasks of steps taken.", tag_keys=one)
        self.results = Counter("metagen_results", "Results, by what the learner made of them.", tag_keys=verdict)
        self.rollbacks = Counter("metagen_rollbacks", "Times that the run diverged and went back.", tag_keys=one)
        self.events = Counter("metagen_pool_events", "What befell the actors.", tag_keys=("run", "event"))
        self.workers = Gauge("metagen_workers", "Actors that can work.", tag_keys=one)
        self.step = Gauge("metagen_step", "Outer steps of the run so far.", tag_keys=one)
        self.loss = Gauge("metagen_loss", "Loss of the last step.", tag_keys=one)
        self.norm = Gauge("metagen_gradient_norm", "Norm of its meta-gradient, before clipping.", tag_keys=one)
        self.share = Gauge("metagen_time_share", "Share of the last step, by part; idle is waiting.", tag_keys=part)
        self.work = Histogram("metagen_work_seconds", "Seconds a result took.", boundaries=SECONDS, tag_keys=actor)
        self.staleness = Histogram("metagen_staleness", "Age of results, in versions.", boundaries=AGES, tag_keys=one)

    def write(self, report: StepReport) -> None:
        """Take one step in."""
        run = self.run
        self.steps.inc(1, run)
        self.tasks.inc(report.tasks, run)
        if report.rolled_back:
            self.rollbacks.inc(1, run)
        for event, count in report.events.items():
            if new := count - self._seen.get(event, 0):
                self.events.inc(new, {**run, "event": event})
        self._seen = dict(report.events)
        self.workers.set(report.workers, run)
        self.step.set(report.step, run)
        self.loss.set(report.loss, run)
        self.norm.set(report.gradient_norm, run)
        for part in ("adapt", "transfer", "idle", "learner"):
            self.share.set(report.seconds[part] / report.seconds["total"], {**run, "part": part})
        for one in report.outcomes:
            self.results.inc(1, {**run, "verdict": str(one.verdict)})
            self.work.observe(one.seconds, {**run, "actor": one.worker})
            self.staleness.observe(one.age, run)
