"""``h``: generator families, one a file, by the name a config uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.dense_conv import DenseConv
from metagen.generators.diffusion import Diffusion
from metagen.generators.edm import Edm
from metagen.generators.family import Condition, Draw, Family
from metagen.generators.flow import Flow
from metagen.generators.gan import Gan
from metagen.generators.vae import Vae
from metagen.registry import check_whole, find, options_of

REGISTRY: dict[str, Any] = {
    "flow": Flow,
    "diffusion": Diffusion,
    "edm": Edm,
    "vae": Vae,
    "gan": Gan,
    "dense-conv": DenseConv,
}


def family_of(
    name: str, architecture: ArchitectureConfig, options: Mapping[str, Any], channels: int, image_size: int
) -> Family:
    """The family called ``name``; raises ``UserError`` for an unknown name or option or for members that it lacks,
    ``ValueError`` for a misfit."""
    entry = find("family", name, REGISTRY)
    family: Family = entry(architecture, options_of(f"family {name}", entry, options), channels, image_size)
    check_whole("family", name, family)
    return family


__all__ = ["REGISTRY", "ArchitectureConfig", "Condition", "Draw", "Family", "family_of"]
