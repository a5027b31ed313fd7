"""An estimator that misbehaves when it is told to: what chaos.py names in its configs as ``misfortune:Unlucky``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from metagen.algorithms import Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions


class UnluckyOptions(FomamlOptions):
    folder: str
    """Where orders lie: a file ``KIND-NAME``, which one worker takes away and obeys once."""
    seconds: float = 0.05
    """Least time that an estimate takes."""


class Unlucky(Fomaml):
    """Fomaml. An order ``nan`` makes one of its results NaN, ``delay`` makes one late."""

    Options = UnluckyOptions

    def __init__(self, options: UnluckyOptions) -> None:
        super().__init__(options)
        self.options = options

    def estimate(self, *arguments: Any) -> Estimate:
        begun = time.monotonic()
        result = super().estimate(*arguments)
        time.sleep(max(0.0, self.options.seconds - (time.monotonic() - begun)))
        if self._told("delay"):
            time.sleep(3.0)
        if self._told("nan"):
            result.gradient[0] = float("nan")
        return result

    def _told(self, kind: str) -> bool:
        for order in Path(self.options.folder).glob(f"{kind}-*"):
            try:
                order.unlink()
            except FileNotFoundError:  # another worker was faster
                continue
            return True
        return False
