"""A Ray actor: a shell around ``metagen.work``. It holds no state that its arguments do not give it."""

from __future__ import annotations

from typing import Any

import ray

from metagen import work
from metagen.config import RunConfig
from metagen.pool import one_thread
from metagen.records import Snapshot, Vector, WorkItem, WorkResult


@ray.remote(max_restarts=-1, max_task_retries=0)
class Actor:
    """Adapts generators on sampled tasks and reports meta-gradients and policy updates."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        one_thread()
        self.name = name
        self.config = config
        self.parts: work.Parts | None = None

    def prepare(self, images: list[Any]) -> str:
        """Build the parts, with the image set that the reference in ``images`` stands for; gives the name.

        The reference comes with every call, in a list so that Ray hands it over as it is: an actor that was
        restarted builds its parts anew from it.
        """
        if self.parts is None:
            self.parts = work.build(RunConfig.parse(self.config), ray.get(images[0]))
        return self.name

    def run(self, item: WorkItem, version: int, theta: Vector, policy: Vector, images: list[Any]) -> WorkResult:
        """Do one piece of work. ``theta`` is given by reference: it lies read-only in shared memory."""
        self.prepare(images)
        assert self.parts is not None
        return work.run(self.parts, item, Snapshot(version, theta, policy), self.name)
