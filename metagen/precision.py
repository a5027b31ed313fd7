"""What a config leaves to be measured on the device at hand: bf16 or fp32, and how many tasks at once."""

from __future__ import annotations

import logging

import torch

from metagen import paths
from metagen.config import RunConfig
from metagen.generators import Condition, Family
from metagen.work import build_problem

log = logging.getLogger(__name__)


def resolve(config: RunConfig) -> RunConfig:
    """``config`` with ``precision: auto`` replaced by the faster of bf16 and fp32 here, and ``together: auto`` by the
    fastest number of tasks at once.

    The choices are written into the run's config, so that every actor and a resumed run compute alike. bf16 must
    be a tenth faster to be chosen: it costs digits. A network that cannot compute in it computes in fp32.
    """
    if config.precision == "auto":
        config = _faster(*(config.model_copy(update={"precision": dtype}) for dtype in ("fp32", "bf16")))
    if config.together == "auto":
        config = config.model_copy(update={"together": paths.choose(config)})
    return config


def _faster(fp32: RunConfig, bf16: RunConfig) -> RunConfig:
    """The one of the two to compute in."""
    seconds = _seconds(fp32)
    try:
        return bf16 if _seconds(bf16) < 0.9 * seconds else fp32
    except RuntimeError as error:  # one's own that does not cast what it is given: in fp32 it has just computed
        log.warning("the network does not compute in bf16 (%s): it computes in fp32", str(error).partition("\n")[0])
        return fp32


def _seconds(config: RunConfig, tasks: int = 2) -> float:
    """Seconds of one forward and backward pass of a small joint batch."""
    problem = build_problem(config)
    family: Family = problem.family
    shape = (family.channels, family.image_size, family.image_size)
    condition = Condition.of_tasks(torch.zeros(tasks, config.episode.shots, *shape))
    images = torch.zeros(tasks * config.episode.queries, *shape)
    theta = problem.network.initial.to(problem.network.device)
    return paths.timed(
        lambda: problem.gradient(theta, condition, images, torch.Generator().manual_seed(0)), problem.network.device
    )
