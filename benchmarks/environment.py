"""Where benchmarks write their figures, beside the machine and the versions that they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results"


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write ``results/NAME.json``: the figures with the environment they were measured in."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **figures}, indent=1) + "\n")
    return path
