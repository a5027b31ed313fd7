"""A Ray actor: a shell around ``metagen.work``. It holds no state that its arguments do not give it."""

from __future__ import annotations

from typing import Any

import ray

from metagen import work
from metagen.config import RunConfig
from metagen.pool import one_thread
from metagen.records import Snapshot, Vector, WorkItem, WorkResult


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
        """Build the parts, with the image set that the reference in ``images`` stands for; gives the name.

        In a call of its own: what goes wrong here comes to the driver as it is, from a constructor it would not.
        """
        self.parts = work.build(RunConfig.parse(self.config), ray.get(images[0]))
        return self.name

    def run(self, item: WorkItem, version: int, theta: Vector, policy: Vector) -> WorkResult:
        """Do one piece of work. ``theta`` is given by reference: it lies read-only in shared memory."""
        assert self.parts is not None
        return work.run(self.parts, item, Snapshot(version, theta, policy), self.name)
