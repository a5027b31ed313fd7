"""Estimators of the meta-gradient, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.algorithms.closed_form import ClosedForm
from metagen.algorithms.es import Evolution
from metagen.algorithms.estimator import Estimate, Estimator, Needs
from metagen.algorithms.fomaml import Fomaml
from metagen.algorithms.imaml import Imaml
from metagen.algorithms.joint import Joint
from metagen.algorithms.maml import Maml
from metagen.algorithms.ppo import Ppo
from metagen.algorithms.reptile import Reptile

REGISTRY: dict[str, Any] = {
    "joint": Joint,
    "reptile": Reptile,
    "fomaml": Fomaml,
    "maml": Maml,
    "imaml": Imaml,
    "es": Evolution,
    "closed-form": ClosedForm,
    "ppo": Ppo,
}

__all__ = ["REGISTRY", "Estimate", "Estimator", "Needs"]
