"""The clipped policy-gradient objective (PPO: Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from metagen.strict import Strict


class PpoOptions(Strict):
    clip: float = Field(0.2, gt=0, lt=1)
    """Ratio of new to old probability beyond which an experience asks for no further change."""
    entropy: float = Field(0.01, ge=0)
    """Weight of the entropy bonus, which keeps choices open until rewards tell them apart."""
    value: float = Field(0.5, ge=0)
    """Weight of the baseline's squared error."""
    reward_unit: float = Field(0.02, gt=0)
    """What the baseline counts rewards in: about as far as rewards differ between tasks."""


def advantages(rewards: Tensor, values: Tensor) -> Tensor:
    """``(R - V) [N]``, of mean 0 and standard deviation 1 over the step's experiences; all 0 if none differs."""
    plain = (rewards - values).detach()
    return (plain - plain.mean()) / plain.std(correction=0).clamp_min(1e-8)


def objective(
    log_probability: Tensor,
    behaviour: Tensor,
    advantage: Tensor,
    value: Tensor,
    reward: Tensor,
    entropy: Tensor,
    options: PpoOptions,
) -> Tensor:
    """What to descend, a scalar; all arguments ``[N]``. With ``r = exp(log_probability - behaviour)``::

        - mean min(r A, clip(r, 1 - c, 1 + c) A)  +  value / 2 mean ((R - V) / unit)^2  -  entropy mean H

    ``behaviour`` is the log-probability that the action was drawn with: for an experience from an older version
    ``r`` weights it by how likely it still is, and the clip ends what it can ask for.
    """
    ratio = (log_probability - behaviour).exp()
    clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
    error = ((reward - value) / options.reward_unit).square().mean()
    return options.value / 2 * error - surrogate - options.entropy * entropy.mean()


def diagnostics(
    log_probability: Tensor, behaviour: Tensor, value: Tensor, reward: Tensor, entropy: Tensor, options: PpoOptions
) -> dict[str, float]:
    """What tells whether the update is sound, by name; all arguments ``[N]``.

    ``kl``: ``mean(r - 1 - log r)``, an unbiased estimate of the divergence of the new from the old that is never
    below 0. ``explained_variance``: ``1 - Var(R - V) / Var(R)``; 0 where all rewards are alike.
    """
    log_ratio = log_probability - behaviour
    ratio, variance = log_ratio.exp(), float(reward.var(correction=0))
    return {
        "reward": float(reward.mean()),
        "entropy": float(entropy.mean()),
        "kl": float((ratio - 1 - log_ratio).mean()),
        "clip_fraction": float(((ratio - 1).abs() > options.clip).float().mean()),
        "explained_variance": 1 - float((reward - value).var(correction=0)) / variance if variance else 0.0,
    }
