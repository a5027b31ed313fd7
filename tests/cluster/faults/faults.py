"""Estimators that fail on purpose, named in a config as ``faults:NAME``."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from ray.exceptions import ObjectLostError

from metagen.algorithms import Estimate
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.errors import UserError


class FatalOptions(FomamlOptions):
    marker: str
    """A folder; the process that creates one of its next ``deaths`` files dies."""
    deaths: int = 1

    def due(self) -> bool:
        """Whether it is this process's turn, which creates the file."""
        for death in range(self.deaths):
            try:
                Path(self.marker, str(death)).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


class DiesAtWork(Fomaml):
    """Fomaml, but the process is killed in the middle of its work, ``deaths`` times in all."""

    Options = FatalOptions

    def __init__(self, options: FatalOptions) -> None:
        super().__init__(options)
        self.options = options

    def estimate(self, *arguments: Any) -> Estimate:
        result = super().estimate(*arguments)
        if self.options.due():
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class NanOnce(DiesAtWork):
    """The meta-gradient of one piece of work is NaN, ``deaths`` times in all, as of a machine at fault."""

    def estimate(self, *arguments: Any) -> Estimate:
        result = Fomaml.estimate(self, *arguments)
        if self.options.due():
            result.gradient[0] = float("nan")
        return result


class Broken(Fomaml):
    """A bug in the work."""

    def estimate(self, *arguments: Any) -> Estimate:
        raise ZeroDivisionError("a bug in the estimator")


class Unpicklable(Fomaml):
    """A bug whose exception cannot travel."""

    def estimate(self, *arguments: Any) -> Estimate:
        error = ZeroDivisionError("a bug in the estimator")
        error.lock = threading.Lock()
        raise error


class TwoPartError(Exception):
    """Pickle calls its class with one argument."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Unreadable(Fomaml):
    """A bug whose exception travels, but cannot be read where it arrives."""

    def estimate(self, *arguments: Any) -> Estimate:
        raise TwoPartError("a bug in ", "the estimator")


class LosesArgument(DiesAtWork):
    """Work that Ray fails at, ``deaths`` times in all: something that it needs is lost on the way."""

    def estimate(self, *arguments: Any) -> Estimate:
        result = Fomaml.estimate(self, *arguments)
        if self.options.due():
            raise ObjectLostError("00" * 28, None, "")
        return result


class LosesImages(DiesAtWork):
    """A part that Ray fails to build, ``deaths`` times in all, from when the folder of markers is there."""

    def __init__(self, options: FatalOptions) -> None:
        super().__init__(options)
        if Path(options.marker).is_dir() and options.due():
            raise ObjectLostError("00" * 28, None, "")

    def estimate(self, *arguments: Any) -> Estimate:
        return Fomaml.estimate(self, *arguments)


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
