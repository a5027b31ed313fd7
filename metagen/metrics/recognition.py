"""Recognisability: is a generated image taken for one of its class, among all others?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metagen.metrics.distances import distances


def recognisability(generated: Sequence[Tensor], real: Sequence[Tensor]) -> list[float]:
    """For each class, the share of its ``generated [M, D]`` that are nearest to the mean of its own ``real [N, D]``.

    The classifier is that of nearest class means (Mensink et al. 2013, doi:10.1109/TPAMI.2013.83): it needs no
    training, so it knows classes that no network has been trained on. 0 to 1, higher is better; chance is one over the
    number of classes. Real images never score 1 themselves: compare with others of the same classes. Raises
    ``ValueError`` unless there are as many generated classes as real ones, each with images.
    """
    if len(generated) != len(real) or not all(len(x) for x in (*generated, *real)):
        raise ValueError(f"{len(generated)} generated and {len(real)} real classes: the same are needed, none empty")
    means = torch.stack([features.double().mean(0) for features in real])
    return [float((distances(x, means).argmin(1) == own).double().mean()) for own, x in enumerate(generated)]
