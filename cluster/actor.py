"""A Ray actor: a shell around ``metagen.work``. It holds no state that its arguments do not give it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import ray

from metagen import work
from metagen.config import RunConfig
from metagen.pool import one_thread
from metagen.records import Snapshot, Vector, WorkItem, WorkResult

Written = list[Any]
"""An order on its way: numbers, text and bytes."""


class Order(NamedTuple):
    """A piece of work, and all of the version for it but theta: one argument, since Ray writes each by itself."""

    item: WorkItem
    version: int
    policy: Vector

    def written(self) -> Written:
        """It in plain values, which Ray writes down as they are: pickling objects takes much of what a call does."""
        return [*vars(self.item).values(), self.version, self.policy.tobytes()]

    @staticmethod
    def read(written: Written) -> Order:
        """The inverse of ``written``."""
        *item, version, policy = written
        return Order(WorkItem(*item), version, np.frombuffer(policy, np.float32))


@ray.remote(max_restarts=0, max_task_retries=0)
class Actor:
    """Adapts generators on sampled tasks and reports meta-gradients and policy updates.

    Ray neither restarts it nor tries its work again: ``cluster.roster`` puts a new one into its place, which is known
    a second sooner, and other actors do its work meanwhile.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        one_thread()
        self.name, self.config = name, config
        self.parts: work.Parts | None = None

    def prepare(self, images: list[Any]) -> str:
        """Build the parts, with the image set that the reference in ``images`` stands for; gives the id of the node.

        In a call of its own: what goes wrong here comes to the driver as it is, from a constructor it would not.
        """
        self.parts = work.build(RunConfig.parse(self.config), ray.get(images[0]))
        return str(ray.get_runtime_context().get_node_id())

    def run(self, theta: Vector, order: Written) -> WorkResult:
        """Do one piece of work. ``theta`` is given by reference: it lies read-only in shared memory."""
        return self._run(theta, order)

    @ray.method(num_returns=2)
    def run_apart(self, theta: Vector, order: Written) -> tuple[WorkResult, Vector]:
        """As ``run``, with the meta-gradient beside the result: it stays on this node until it is asked for.

        One that is not finite comes with the result, for the learner to judge.
        """
        result = self._run(theta, order)
        apart = result.gradient[:0]
        return (replace(result, gradient=apart), result.gradient) if result.sound else (result, apart)

    def _run(self, theta: Vector, order: Written) -> WorkResult:
        assert self.parts is not None
        item, version, policy = Order.read(order)
        return work.run(self.parts, item, Snapshot(version, theta, policy), self.name)
