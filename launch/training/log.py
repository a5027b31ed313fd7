"""Reading a run's log, without what it takes to write one."""

from __future__ import annotations

from metagen.lines import events

LOG = "log.jsonl"

__all__ = ["LOG", "events"]
