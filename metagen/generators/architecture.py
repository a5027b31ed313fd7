"""``h``: the network structure, as a value. One builder (``network.py``) turns it into a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from metagen.strict import Strict

Network = Literal["unet", "mlp"]
Activation = Literal["relu", "silu", "gelu", "leaky_relu", "tanh"]
Normalisation = Literal["group", "layer", "none"]
Resampling = Literal["conv", "pool"]
Connectivity = Literal["plain", "residual", "dense"]
SetConditioning = Literal["none", "vector", "spatial"]


class ArchitectureConfig(Strict):
    """The structure of a generator's network: what a sweep samples.

    The network is an encoder-decoder over ``len(widths)`` resolutions (``unet``). ``patch`` folds
    ``patch x patch`` pixels into channels before the first convolution, so the finest level works at
    ``image_size / patch``; each further level halves the resolution.

    Or it is a perceptron over all pixels at once (``mlp``) with a hidden layer of each of ``widths``: for small images
    and many tasks.
    """

    network: Network = "unet"
    patch: Literal[1, 2, 4] = 2
    widths: tuple[int, ...] = (64, 128)
    """Channels at each level, finest first."""
    blocks: int = 1
    """Blocks a level on the way down, and again on the way up."""
    kernel: Literal[1, 3, 5, 7] = 3
    activation: Activation = "silu"
    normalisation: Normalisation = "group"
    resampling: Resampling = "conv"
    connectivity: Connectivity = "residual"
    skips: bool = True
    """Encoder-decoder skip connections between equal resolutions."""
    attention: tuple[bool, ...] | bool = False
    """Self-attention after the blocks of a level: one flag for all levels or one a level."""
    set_conditioning: SetConditioning = "spatial"
    """How the support set reaches the network: not at all, as one vector (FiLM), or as feature maps too."""
    set_width: float = 0.5
    """Width of the set encoder, as a share of ``widths``."""
    embedding: int = 128
    """Size of the time and set embedding that drives FiLM."""

    @model_validator(mode="after")
    def _possible(self) -> ArchitectureConfig:
        if not self.widths:
            raise ValueError("widths: at least one level is needed")
        if any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"widths: {self.widths} must be multiples of 8")
        if self.blocks < 1:
            raise ValueError("blocks: at least one block a level is needed")
        if self.embedding < 8 or self.embedding % 2:
            raise ValueError(f"embedding: {self.embedding} must be even and at least 8")
        if not 0 < self.set_width <= 2:
            raise ValueError(f"set_width: {self.set_width} must be in (0, 2]")
        if isinstance(self.attention, tuple) and len(self.attention) != len(self.widths):
            raise ValueError(f"attention: {len(self.attention)} flags for {len(self.widths)} levels")
        return self

    def attends(self, level: int) -> bool:
        """Whether ``level`` ends in self-attention."""
        return self.attention if isinstance(self.attention, bool) else self.attention[level]

    def check_image_size(self, size: int) -> None:
        """Raise ``ValueError`` if images of ``size`` pixels cannot be halved as often as there are levels."""
        factor = self.patch * 2 ** (len(self.widths) - 1)
        if size % factor:
            raise ValueError(
                f"image_size {size} is not a multiple of {factor} (patch {self.patch}, {len(self.widths)} levels): "
                "use fewer levels, a smaller patch or another image size"
            )

    def check_convolutional(self, family: str) -> None:
        """Raise ``ValueError`` if the network is not made of convolutions, as those of ``family`` are."""
        self.check_fixed({"network": ("unet", "which is made of convolutions")}, f"family {family}")

    def check_fixed(self, fixed: Mapping[str, tuple[Any, str]], owner: str) -> None:
        """Raise ``ValueError`` that names all fields with other values than ``fixed`` leaves, and why."""
        wrong = [
            f"{name}: {getattr(self, name)} does not fit {owner}, {why}: set it to {str(value).lower()}"
            for name, (value, why) in fixed.items()
            if getattr(self, name) != value
        ]
        if wrong:
            raise ValueError("generator.architecture." + "; ".join(wrong))
