"""``h``: generator families, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition, Draw, Family
from metagen.generators.flow import Flow
from metagen.generators.gan import Gan

REGISTRY: dict[str, Any] = {"flow": Flow, "gan": Gan}

__all__ = ["REGISTRY", "ArchitectureConfig", "Condition", "Draw", "Family"]
