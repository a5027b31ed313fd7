"""A piece of work as the pool holds it: what it is, at which version, and who works on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.roster import Member
from metagen.records import Vector, WorkItem


class Published(NamedTuple):
    """A snapshot that lies in the object store."""

    version: int
    theta: Any
    """Reference to the vector."""
    policy: Vector


@dataclass(eq=False)
class Piece:
    """A piece of work at one version, and who works on it."""

    item: WorkItem
    published: Published
    holders: list[Member] = field(default_factory=list)
    done: bool = False
    vector: Any = None
    """Reference to its meta-gradient, where that stays on its node."""
    node: str = ""
    again: bool = False
    """Whether its result was not finite, and it is done again to see whether that was the machine's fault."""
