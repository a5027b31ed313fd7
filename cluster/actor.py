"""A Ray actor: a shell around ``metagen.work``. It holds no state that its arguments do not give it."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from metagen import work
from metagen.config import RunConfig
from metagen.pool import one_thread
from metagen.records import Snapshot, WorkItem, WorkResult
from metagen.tasks.imageset import ImageSet


@ray.remote(max_restarts=-1, max_task_retries=0)
class Actor:
    """Adapts generators on sampled tasks and reports meta-gradients and policy updates."""

    def __init__(self, name: str, config: dict[str, Any], images: ImageSet) -> None:
        one_thread()
        self.name = name
        self.parts = work.build(RunConfig.parse(config), images)

    def ping(self) -> str:
        """The actor's name, once it can work."""
        return self.name

    def run(self, item: WorkItem, version: int, vector: np.ndarray, parameters: int) -> WorkResult:
        """Do one piece of work. ``vector`` is given by reference: it lies read-only in shared memory."""
        return work.run(self.parts, item, Snapshot(version, vector, parameters), self.name)
