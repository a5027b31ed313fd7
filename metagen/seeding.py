"""Seeds are derived by name, so that a piece of work draws the same numbers wherever and whenever it runs.

Nothing in metagen touches torch's, numpy's or Python's global generator.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_for(*names: str | int) -> int:
    """A 63-bit seed from a path of names: ``seed_for(run_seed, "episode", step, index)``.

    Of it torch's CPU generator reads the lower 32 bits: two of a run's many streams may be alike by chance.
    """
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(*names: str | int) -> torch.Generator:
    """A CPU generator seeded by name. Noise is drawn on the CPU so that every device sees the same draws."""
    return torch.Generator().manual_seed(seed_for(*names))


def numpy_generator(*names: str | int) -> np.random.Generator:
    """A numpy generator seeded by name."""
    return np.random.default_rng(seed_for(*names))
