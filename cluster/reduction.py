"""Sums of results on the nodes where they are made: one vector a node and step travels to the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from cluster.roster import own, reason
from metagen.pool import one_thread
from metagen.wire import Sender, Sent, Wire, received, summed


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class Reducer:
    """The pre-aggregator of one node."""

    def __init__(self, wire: Wire) -> None:
        one_thread()
        self.sender = Sender(wire)

    def total(self, weights: list[float], vectors: list[Any]) -> Sent:
        """The weighted sum of the vectors behind the references ``vectors``, in their order, as it travels."""
        here = ray.get(vectors)
        return self.sender.send(summed(here, weights, len(here[0])))

    def residual(self) -> Any:
        return self.sender.residual.numpy()

    def restore(self, residual: Any) -> None:
        self.sender.residual = torch.tensor(residual)


class Reduction:
    """The pre-aggregators of all nodes that have results, by node."""

    def __init__(self, wire: Wire) -> None:
        self.wire: Wire = "fp32" if wire == "auto" else wire
        self._reducers: dict[str, Any] = {}
        self._carried = torch.zeros(0)  # a residual that no node has taken over yet

    def totals(self, groups: Mapping[str, Sequence[tuple[float, Any]]]) -> dict[str, Tensor | None]:
        """The sums of the weighted references of each node; None for a node that is gone, with what was on it."""
        calls = {
            node: self._on(node).total.remote([weight for weight, _ in group], [vector for _, vector in group])
            for node, group in groups.items()
        }
        found: dict[str, Tensor | None] = {}
        for node, call in calls.items():
            try:
                found[node] = received(ray.get(call))
            except RayError as error:
                if own(error):
                    raise reason(error) from error
                self._end(node)
                found[node] = None
        return found

    def residual(self) -> Tensor:
        """The sum of all residuals ``[P]``, empty if there is none; what a lost node held is lost."""
        found = self._carried
        for node, reducer in list(self._reducers.items()):
            try:
                one = torch.tensor(ray.get(reducer.residual.remote()))
            except RayError:
                self._end(node)
                continue
            if len(one):
                found = found + one if len(found) else one
        return found

    def restore(self, residual: Tensor) -> None:
        """Go on with ``residual`` as the sum of all: the first node that sends takes it over."""
        self._carried = residual
        for node, reducer in list(self._reducers.items()):
            try:
                ray.get(reducer.restore.remote(torch.zeros(0).numpy()))
            except RayError:
                self._end(node)

    def close(self) -> None:
        for node in list(self._reducers):
            self._end(node)

    def _on(self, node: str) -> Any:
        if node not in self._reducers:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            self._reducers[node] = Reducer.options(scheduling_strategy=there).remote(self.wire)  # type: ignore[attr-defined]
        if len(self._carried):
            self._reducers[node].restore.remote(self._carried.numpy())
            self._carried = torch.zeros(0)
        return self._reducers[node]

    def _end(self, node: str) -> None:
        ray.kill(self._reducers.pop(node))
