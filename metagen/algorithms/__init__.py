"""Estimators of the meta-gradient, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.algorithms.estimator import Estimate, Estimator
from metagen.algorithms.fomaml import Fomaml
from metagen.algorithms.joint import Joint
from metagen.algorithms.reptile import Reptile

REGISTRY: dict[str, Any] = {"joint": Joint, "fomaml": Fomaml, "reptile": Reptile}

__all__ = ["REGISTRY", "Estimate", "Estimator"]
