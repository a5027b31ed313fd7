"""Frechet inception distance: two sets of features as normal distributions, and how far these are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What a Frechet distance needs of features: their number, sum ``[D]`` and sum of outer products ``[D, D]``.

    They add up: sets of classes are pooled, and bootstrapped, without looking at an image again.
    """

    count: int
    total: Tensor
    outer: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """The moments of ``features [N, D]``."""
        x = features.double()
        return Moments(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Without bias: divided by ``N - 1``."""
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def fid(generated: Moments, real: Moments) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))``, lower is better.

    Heusel et al. 2017, arXiv:1706.08500, eq. 6, of any features.
    Its bias falls with the number of images, so only values at equal numbers compare. Raises ``ValueError`` for fewer
    than two images of either.
    """
    if generated.count < 2 or real.count < 2:
        raise ValueError(f"{generated.count} generated and {real.count} real images: two of each are needed")
    x, y = generated.covariance, real.covariance
    # The product's eigenvalues are those of the symmetric root(x) y root(x): real and not negative.
    values, vectors = torch.linalg.eigh(x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ y @ root).clamp_min(0).sqrt().sum()
    return float((generated.mean - real.mean).square().sum() + x.trace() + y.trace() - 2 * overlap)
