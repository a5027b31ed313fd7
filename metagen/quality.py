"""How good images made of unseen classes are: every metric of samples, class by class, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metagen.bootstrap import Report, Values, around, by_class, members
from metagen.errors import UserError
from metagen.makers import Gallery
from metagen.metrics.coverage import coverage, density
from metagen.metrics.distances import distances
from metagen.metrics.diversity import diversity
from metagen.metrics.extractor import Extractor
from metagen.metrics.fid import Moments, fid
from metagen.metrics.kid import kid
from metagen.metrics.memorisation import memorised_share
from metagen.metrics.recognition import recognisability
from metagen.metrics.two_sample import two_sample_accuracy

NEIGHBOURS = 3


@dataclass(frozen=True)
class Reading:
    """How a metric is read."""

    title: str
    best: str
    about: str


READINGS: dict[str, Reading] = {
    "kid": Reading("KID", "lower", "distance of the distributions of a class's new and real images, 0 if they are one"),
    "fid": Reading("FID", "lower", "the same of all classes pooled, as two normal distributions; above 0 for few"),
    "two_sample": Reading("1-NN accuracy", "0.5", "how often the nearest other image tells new images from real ones"),
    "recognisability": Reading(
        "recognisability", "as real", "share of images nearest to the mean of their own class, of all classes here"
    ),
    "density": Reading("density", "as real", "how many real images' neighbourhoods a new image lies in, 1 if real"),
    "coverage": Reading("coverage", "higher", "share of real images with a new one in their neighbourhood"),
    "diversity": Reading("diversity", "as real", "spread of new images over that of real ones"),
    "memorised": Reading(
        "memorised share",
        "as real",
        "share of images closer to one of those shown than 95% of pairs of real ones are",
    ),
}
"""Metrics in the order that they are shown in."""


@dataclass(frozen=True, eq=False)
class Features:
    """The features of galleries' images, each ``[n, D]``; taken once, whoever is measured."""

    extract: Extractor
    galleries: Sequence[Gallery]
    support: list[Tensor]
    reference: list[Tensor]
    rest: list[Tensor]

    @staticmethod
    def of(extract: Extractor, galleries: Sequence[Gallery]) -> Features:
        """Raises ``UserError`` for a class whose images that are not shown all have the same features: images that
        differ in colour alone, to an extractor that sees none."""

        def taken(parts: list[Tensor]) -> list[Tensor]:
            return _each(extract, parts)

        rest = taken([g.rest for g in galleries])
        for gallery, found in zip(galleries, rest, strict=True):
            if bool((found == found[0]).all()):
                raise UserError(
                    f"the images of class {gallery.name!r} that are not shown all have the same features, in which no "
                    "new image can be compared with them: use --extractor pyramid, or measure none with --samples 0"
                )
        return Features(
            extract,
            galleries,
            taken([g.support for g in galleries]),
            taken([g.reference for g in galleries]),
            rest,
        )


@dataclass(frozen=True, eq=False)
class Quality:
    """What was measured of one maker's images."""

    per_class: dict[str, Values]
    """``[classes]`` by metric; of ``READINGS`` all but FID, which has no value of one class."""
    moments: list[tuple[Moments, Moments]]
    """Of made and reference images, one pair a class."""

    def fid(self, rows: NDArray[np.int64] | Sequence[int]) -> float:
        """FID of some classes, pooled."""
        made, real = (_total([self.moments[row][side] for row in rows]) for side in (0, 1))
        return fid(made, real)

    def report(self, galleries: Sequence[Gallery]) -> dict[str, Report]:
        """By metric: mean, interval, each class's value, categories."""
        classes, categories = [g.name for g in galleries], [g.category for g in galleries]
        found = {name: by_class(values, classes, categories) for name, values in self.per_class.items()}
        everything = np.arange(len(classes))
        pooled: Report = {**around(self.fid(everything), self.fid, len(classes))}
        if groups := members(categories):
            pooled["by_category"] = {
                name: {"mean": self.fid(rows), "classes": len(rows)} for name, rows in groups.items()
            }
        found["fid"] = pooled
        return {name: found[name] for name in READINGS}


def measured(features: Features, made: Sequence[Tensor]) -> Quality:
    """Every metric of ``made``, one ``[n, C, H, W]`` a gallery, as many images as its reference has."""
    found = _each(features.extract, list(made))
    real, columns = features.reference, range(len(found))
    near = [min(NEIGHBOURS, len(x) - 1) for x in real]
    rows: dict[str, list[float]] = {
        "kid": [kid(found[i], real[i]) for i in columns],
        "two_sample": [two_sample_accuracy(found[i], real[i]) for i in columns],
        "recognisability": recognisability(found, real),
        "density": [density(found[i], real[i], near[i]) for i in columns],
        "coverage": [coverage(found[i], real[i], near[i]) for i in columns],
        "diversity": [diversity(found[i], features.rest[i]) for i in columns],
        "memorised": [memorised_share(found[i], features.support[i], features.rest[i]) for i in columns],
    }
    basis = _span([*found, *real])
    moments = [(Moments.of(x @ basis), Moments.of(y @ basis)) for x, y in zip(found, real, strict=True)]
    return Quality({name: np.array(values) for name, values in rows.items()}, moments)


def nearest_real(features: Features, index: int, made: Tensor) -> tuple[Tensor, list[bool]]:
    """For each of ``made [n, C, H, W]`` the nearest real image of its class, shown or not, and whether it was shown."""
    gallery = features.galleries[index]
    real = torch.cat([gallery.support, gallery.rest])
    nearest = distances(features.extract(made), torch.cat([features.support[index], features.rest[index]])).argmin(1)
    return real[nearest], (nearest < len(gallery.support)).tolist()


def _each(extract: Extractor, parts: list[Tensor]) -> list[Tensor]:
    """Features of each part, all images in one go."""
    return list(extract(torch.cat(parts)).split([len(part) for part in parts]))


def _span(parts: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis ``[D, R]`` of all features: with fewer images than features, FID is as exact in fewer."""
    features = torch.cat(list(parts))
    count, width = features.shape
    return torch.eye(width) if width <= count else torch.linalg.qr(features.T)[0]


def _total(moments: Sequence[Moments]) -> Moments:
    total = moments[0]
    for one in moments[1:]:
        total = total + one
    return total
