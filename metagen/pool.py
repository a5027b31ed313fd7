"""Who does the work. The serial pool does it here; ``cluster.pool.RayPool`` has the same interface."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metagen import work
from metagen.records import Snapshot, WorkItem, WorkResult
from metagen.wire import Sender, received, total


@dataclass(frozen=True)
class Crew:
    """Actors of one kind: how many, and what each of them takes."""

    least: int
    """Actors that the run begins with."""
    most: int | None
    """Actors that it may grow to; None for as many as there is room for."""
    cpus: float = 1.0
    gpus: float = 0.0
    device: str | None = None
    """What they compute on; None for the run's device."""


class Pool(Protocol):
    """Workers that turn items into results."""

    background: bool
    """Whether they work from when they are given items, not only while results are taken."""

    @property
    def workers(self) -> int:
        """Workers that there are now."""
        ...

    @property
    def events(self) -> Mapping[str, int]:
        """What befell the workers so far, counted by name (``cluster/pool.py`` has the names)."""
        ...

    def submit(self, items: Sequence[WorkItem], snapshot: Snapshot) -> None:
        """Give the workers ``items`` to work on with ``snapshot``, behind what they already have."""
        ...

    def take(self) -> WorkResult:
        """The next result to come, of any item submitted; ``LookupError`` if none is under way."""
        ...

    def total(
        self, results: Sequence[WorkResult], weights: Sequence[float], parameters: int, policy: int
    ) -> tuple[Tensor, Tensor]:
        """The weighted sums of the results' meta-gradients ``[P]`` and policy updates ``[G]``, as they travelled."""
        ...

    def residual(self) -> Tensor:
        """What compression has held back of all sums so far ``[P]``, for a checkpoint; empty if nothing."""
        ...

    def restore(self, residual: Tensor) -> None:
        """Go on with ``residual`` as what was held back."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class SerialPool:
    """One worker, in this process, on one thread: the reference that every other pool must equal."""

    workers, background = 1, False

    def __init__(self, parts: work.Parts) -> None:
        self.parts = parts
        self.events: dict[str, int] = {}
        self.sender = Sender(parts.config.wire)
        self._waiting: deque[tuple[WorkItem, Snapshot]] = deque()

    def submit(self, items: Sequence[WorkItem], snapshot: Snapshot) -> None:
        self._waiting.extend((item, snapshot) for item in items)

    def take(self) -> WorkResult:
        if not self._waiting:
            raise LookupError("no work is under way")
        return work.run(self.parts, *self._waiting.popleft(), worker="serial")

    def total(
        self, results: Sequence[WorkResult], weights: Sequence[float], parameters: int, policy: int
    ) -> tuple[Tensor, Tensor]:
        gradient, policy_gradient = total(results, weights, parameters, policy)
        # Directions from seeds are drawn where they are summed, and do not travel.
        travels = self.sender.wire != "auto" and not any(result.probes for result in results)
        return received(self.sender.send(gradient)) if travels else gradient, policy_gradient

    def residual(self) -> Tensor:
        return self.sender.residual

    def restore(self, residual: Tensor) -> None:
        self.sender.residual = residual

    def close(self) -> None:
        self._waiting.clear()


def one_thread() -> None:
    """Give this process one compute thread, and let it keep the memory that it frees.

    A worker is one thread, so that n workers fill n cores; and a sum split over another number of threads
    rounds differently, so that runs are comparable bit for bit only at the same number.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()


def available_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Tell glibc not to hand freed activations back to the system at every step (mallopt(3)).

    They are allocated again at once, and zeroing fresh pages takes time. No other C library has the
    call, and none needs it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, 1 << 30)
