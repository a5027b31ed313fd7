"""Who does the work of a session: this process, or actors on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from metagen import work
from metagen.config import CrewConfig, RunConfig, actor_range
from metagen.errors import UserError
from metagen.pool import Crew, Pool, SerialPool, available_cores
from metagen.records import StepReport
from metagen.wording import counted


@dataclass(frozen=True)
class Workers:
    """Who does the work of a session. Changes no result."""

    kind: str
    crews: tuple[Crew, ...]
    address: str | None
    options: str = field(default="", compare=False)
    """What the command line chose, to say again with ``metagen resume``."""

    @property
    def count(self) -> int:
        """Workers that the run begins with."""
        return sum(crew.least for crew in self.crews)

    def __str__(self) -> str:
        if self.kind == "serial":
            return "in this process"
        most = [crew.most for crew in self.crews if crew.most is not None]
        if len(most) < len(self.crews):
            return f"{counted(self.count, 'Ray actor')} or more"
        full = sum(most)
        return counted(full, "Ray actor") if full == self.count else f"{self.count} to {full} Ray actors"

    @staticmethod
    def choose(config: RunConfig, kind: str | None, actors: str | None, address: str | None) -> Workers:
        """The command line's choice, else the config's, else Ray with an actor a core."""
        pool = config.pool
        given = {"pool": kind, "actors": actors, "address": address}
        options = "".join(f" --{name} {value}" for name, value in given.items() if value)
        kind = kind or ("ray" if address else pool.kind)
        if kind == "serial":
            if (actors or "1") != "1" or address:
                raise UserError("--pool serial is one worker in this process: drop --actors and --address, or use ray")
            return Workers(kind, (Crew(1, 1),), None, options)
        first = pool if actors is None else pool.model_copy(update={"actors": actors})
        crews = (_crew(first, None), *(_crew(other, other.device) for other in pool.others))
        return Workers(kind, crews, address or pool.address, options)

    @contextmanager
    def pooling(self) -> Iterator[Callable[[work.Parts], Pool]]:
        """Start what the pool needs (Ray or nothing) and give a function that makes the pool."""
        if self.kind == "serial":
            yield SerialPool
            return
        from cluster.connect import start_ray, stop_ray
        from cluster.pool import RayPool

        start_ray(self.address, self.crews)
        try:
            yield lambda parts: RayPool(parts.config, parts.images, self.crews)
        finally:
            stop_ray()

    def observer(self, config: RunConfig) -> Callable[[StepReport], None] | None:
        """What shows Ray's Prometheus endpoint each report; None without Ray."""
        if self.kind == "serial":
            return None
        from cluster.metrics import Metrics

        return Metrics(config.name).write


def _crew(config: CrewConfig, device: str | None) -> Crew:
    each_core = max(1, int(available_cores() // max(config.cpus, 1.0)))
    least, most = actor_range(config.actors or each_core)
    return Crew(least, most, config.cpus, config.gpus, device)
