"""``DataConfig``: which images a run adapts to, and in which form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from metagen.strict import Strict

OnCorrupt = Literal["error", "skip"]
Polarity = Literal["keep", "invert", "auto"]


class DataConfig(Strict):
    """The source of images and the form that they are brought into."""

    source: str = "pictograms"
    """A name in ``metagen.tasks.REGISTRY`` or 'package.module:Class'."""
    path: str | None = None
    """The file or folder that the source reads; the packaged set needs none."""
    image_size: int = Field(default=28, ge=8, le=512)
    """Height and width in pixels."""
    channels: Literal[1, 3] = 1
    """1 for grey, 3 for RGB."""
    on_corrupt: OnCorrupt = "error"
    """A corrupt image ends the run, or is skipped and counted in the set's notes (source 'folder')."""
    polarity: Polarity = "keep"
    """'invert' turns dark ink on bright ground into bright ink on dark ground, which the packaged set has;
    'auto' does so if the median of all border pixels is brighter than 127."""

    @model_validator(mode="after")
    def _has_path(self) -> DataConfig:
        if self.path is not None and not self.path.strip():
            raise ValueError("path: empty; leave it out or name a file or folder")
        if self.path is None and self.source in ("folder", "npz"):
            what = {"folder": "a folder with one folder of images a class", "npz": "an .npz file"}[self.source]
            raise ValueError(f"path: source '{self.source}' needs one; set it to {what}")
        if self.path is not None and self.source == "pictograms":
            raise ValueError("path: source 'pictograms' is packaged and reads none; set source: folder or npz")
        return self
