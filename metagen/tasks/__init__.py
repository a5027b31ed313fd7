"""What is adapted to: image sets split by class, and the episodes drawn from them (``metagen.tasks.episodes``)."""

from __future__ import annotations

from collections.abc import Callable

from metagen.errors import UserError
from metagen.registry import find
from metagen.tasks.config import DataConfig
from metagen.tasks.folder import folder, load_class_folder, load_images
from metagen.tasks.imageset import SPLITS, ImageSet, split_by_hash
from metagen.tasks.mixture import mixture
from metagen.tasks.npz import npz
from metagen.tasks.omniglot import omniglot
from metagen.tasks.pictograms import pictograms
from metagen.tasks.pixels import in_polarity

__all__ = [
    "REGISTRY",
    "SPLITS",
    "DataConfig",
    "ImageSet",
    "load",
    "load_class_folder",
    "load_images",
    "split_by_hash",
]

REGISTRY: dict[str, Callable[[DataConfig], ImageSet]] = {
    "pictograms": pictograms,
    "folder": folder,
    "npz": npz,
    "omniglot": omniglot,
    "mixture": mixture,
}
"""Sources by name. Their images have the polarity of the source; ``load`` applies ``config.polarity``."""


def load(config: DataConfig) -> ImageSet:
    """The image set that ``config`` names: uint8 [N, config.channels, config.image_size, config.image_size].

    ``config.source`` is a name in ``REGISTRY`` or 'package.module:Class', a callable that takes the
    ``DataConfig`` and returns an ``ImageSet``. Raises ``UserError`` with what to do about it.
    """
    images = find("source", config.source, REGISTRY)(config)
    if config.source not in REGISTRY:
        if not isinstance(images, ImageSet):
            raise UserError(f"source {config.source!r} returned {type(images).__name__}, not an ImageSet")
        if (images.channels, images.size) != (config.channels, config.image_size):
            raise UserError(
                f"source {config.source!r} gave {images.channels} channels at {images.size} pixels, "
                f"but the config asks for {config.channels} at {config.image_size}: change the one or the other"
            )
    return in_polarity(images, config.polarity)
