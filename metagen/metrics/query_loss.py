"""The loss of held-out images in a frozen bank of noise: what adaptation is judged by first of all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metagen.generators import Condition
from metagen.problem import Problem

DRAWS = 3


def query_loss(problem: Problem, parameters: Tensor, support: Tensor, query: Tensor, bank: torch.Generator) -> float:
    """Mean score of ``query [M, C, H, W]`` given ``support [K, C, H, W]``, in the family's ``metric``; lower is better.

    Each image is scored in ``DRAWS`` draws of the ``bank``. Who hands in a bank of the same seed for every method and
    every number of steps has them differ by their parameters alone, and not by noise: the differences are paired. Of a
    VAE it is the importance-weighted bound, see ``iwae.py``. What is not a number, of parameters that diverged, counts
    as infinite: no step size that leads there is ever the best.
    """
    condition = Condition.of_tasks(support[None])
    loss = float(problem.scores(parameters, condition, query.repeat_interleave(DRAWS, dim=0), bank).mean())
    return math.inf if math.isnan(loss) else loss
