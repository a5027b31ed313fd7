"""Estimators that fail on purpose, named in a config as ``faults:NAME``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from metagen.algorithms import Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.errors import UserError


class FatalOptions(FomamlOptions):
    marker: str
    """A folder; the process that creates one of its next ``deaths`` files dies."""
    deaths: int = 1


class DiesAtWork(Fomaml):
    """Fomaml, but the process is killed in the middle of its work, ``deaths`` times in all."""

    Options = FatalOptions

    def __init__(self, options: FatalOptions) -> None:
        super().__init__(options)
        self.options = options

    def estimate(self, *arguments: Any) -> Estimate:
        result = super().estimate(*arguments)
        for death in range(self.options.deaths):
            try:
                Path(self.options.marker, str(death)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class NanOnce(DiesAtWork):
    """The meta-gradient of one piece of work is NaN, ``deaths`` times in all, as of a machine at fault."""

    def estimate(self, *arguments: Any) -> Estimate:
        result = Fomaml.estimate(self, *arguments)
        for death in range(self.options.deaths):
            try:
                Path(self.options.marker, str(death)).touch(exist_ok=False)
            except FileExistsError:
                continue
            result.gradient[0] = float("nan")
        return result


class Broken(Fomaml):
    """A bug in the work."""

    def estimate(self, *arguments: Any) -> Estimate:
        raise ZeroDivisionError("a bug in the estimator")


class Refusing(Fomaml):
    """Work that the user's input makes impossible."""

    def estimate(self, *arguments: Any) -> Estimate:
        raise UserError("the images are all of one colour: use others")


class OnlyInTheDriver(Fomaml):
    """A part that can be built in the process whose id ``FAULTS_DRIVER`` holds, and in no other."""

    def __init__(self, options: FomamlOptions) -> None:
        super().__init__(options)
        if os.getpid() != int(os.environ.get("FAULTS_DRIVER", "0")):
            raise UserError("no such file on this machine: copy it to every node")


class Overflowing(Fomaml):
    """The meta-gradient of some episodes is infinite in its last number, the same ones whenever they come."""

    def estimate(self, *arguments: Any) -> Estimate:
        result = super().estimate(*arguments)
        episodes = arguments[4]
        if int(1000 * float(episodes[0].support.abs().sum())) % 3 == 0:
            result.gradient[-1] = float("inf")
        return result


class OutOfMemory(Fomaml):
    """Work that takes more memory than there is."""

    def estimate(self, *arguments: Any) -> Estimate:
        raise MemoryError("cannot allocate 80 GB")
