"""Parameters and values as people read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last words of keys, as many as tell them apart: ``learning_rate`` of ``phases.0.outer.learning_rate``."""
    names = list(names)
    out = {name: name.rpartition(".")[2] for name in names}
    words = 1
    while (twice := {short for short, count in Counter(out.values()).items() if count > 1}) and words < 10:
        words += 1
        out.update({name: ".".join(name.split(".")[-words:]) for name in names if out[name] in twice})
    return out


def shown(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def choices(assignment: Mapping[str, Any]) -> str:
    """An assignment in one line: ``patch 2, levels 1, learning_rate 0.03``."""
    names = short_names(assignment)
    return ", ".join(f"{names[name]} {shown(value)}" for name, value in assignment.items())
