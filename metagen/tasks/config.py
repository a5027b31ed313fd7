"""``DataConfig``: which images a run adapts to, and in which form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, model_validator

from metagen.strict import Strict

OnCorrupt = Literal["error", "skip"]
Polarity = Literal["keep", "invert", "auto"]

MOST_CATEGORIES = 8
"""Policies keep a place for so many: their size does not depend on how many there are."""


class Categories(Strict):
    """Categories of tasks as values (``categories.py``): what an embedding is standardised by, and their centroids."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    centroids: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=MOST_CATEGORIES)
    """Standardised, the largest category first."""

    @model_validator(mode="after")
    def _one_size(self) -> Categories:
        if {len(row) for row in (self.scale, *self.centroids)} != {len(self.mean)} or min(self.scale, default=0) <= 0:
            raise ValueError("mean, scale (above 0) and every centroid need as many numbers as an embedding has")
        return self


class CategoriesConfig(Strict):
    """Whether tasks are sorted into categories by what their support sets look like."""

    most: int = Field(0, ge=0, le=MOST_CATEGORIES)
    """Largest number of categories; the silhouette chooses how many. 0 for none."""
    found: Categories | None = None
    """The categories. ``metagen train`` finds them in the training classes and writes them here, so that every actor
    and every evaluation sorts alike."""

    @model_validator(mode="after")
    def _two(self) -> CategoriesConfig:
        if self.most == 1:
            raise ValueError("most: one category sorts nothing; give 2 or more, or 0 for none")
        return self


class PartConfig(Strict):
    """One data set of a mixture."""

    source: str
    path: str | None = None
    name: str | None = None
    """What its classes' names begin with; the data set's own name by default."""
    weight: float = Field(1.0, gt=0)
    """How often its classes are drawn, beside those of the other parts."""
    on_corrupt: OnCorrupt = "error"
    polarity: Polarity = "keep"


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
    parts: tuple[PartConfig, ...] = ()
    """The data sets of source 'mixture'."""
    temperature: float = Field(default=1.0, gt=0)
    """Of a mixture: a part is drawn as often as its weight times ``classes ** (1 / temperature)`` says. At 1 all
    classes are alike; the higher, the more often those of small parts are drawn."""

    @model_validator(mode="after")
    def _has_path(self) -> DataConfig:
        if self.path is not None and not self.path.strip():
            raise ValueError("path: empty; leave it out or name a file or folder")
        if self.path is None and self.source in ("folder", "npz"):
            what = {"folder": "a folder with one folder of images a class", "npz": "an .npz file"}[self.source]
            raise ValueError(
                f"path: source '{self.source}' needs one: set data.path to {what}, or give it as --data PATH"
            )
        if self.path is not None and self.source == "pictograms":
            raise ValueError("path: source 'pictograms' is packaged and reads none; set source: folder or npz")
        if self.source == "mixture" and not self.parts:
            raise ValueError(
                "parts: source 'mixture' needs them: list its data sets under data.parts of a run's config, or give "
                "one of them as --data PATH"
            )
        if self.parts and self.source != "mixture":
            raise ValueError(f"parts: source '{self.source}' takes none: set source: mixture, or leave them out")
        if self.source == "mixture" and (self.path is not None or self.polarity != "keep"):
            raise ValueError("source 'mixture': path and polarity are those of its parts; leave them out here")
        for number, part in enumerate(self.parts):
            try:
                self.of_part(part)
            except ValidationError as error:
                reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
                raise ValueError(f"parts.{number}: {reason}") from None
        return self

    @property
    def polarity_of_others(self) -> Polarity:
        """The polarity for images from elsewhere that are shown to a model of this data.

        Auto for a model of bright ink on a dark ground, as the packaged set and Omniglot are and what was turned into
        it: paper is bright more often than not. A model of anything else takes images as they are.
        """
        sources = {part.source for part in self.parts} | {self.source}
        turned = any(polarity != "keep" for polarity in (self.polarity, *(part.polarity for part in self.parts)))
        return "auto" if turned or sources & {"pictograms", "omniglot"} else "keep"

    def of_part(self, part: PartConfig) -> DataConfig:
        """The config of one part of a mixture, in the mixture's form."""
        if part.source == "mixture":
            raise ValueError("a mixture has no mixtures as parts: list their parts")
        values = part.model_dump(exclude={"name", "weight"})
        return DataConfig(image_size=self.image_size, channels=self.channels, **values)
