"""Benchmarks that are scripts of the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.benchmarks.registry import Script


def run_script(script: Script, seeds: int | None, out: Path | None, arguments: Sequence[str]) -> None:
    """Run a script to its end; exits with its code."""
    words = [sys.executable, str(script.path())]
    if seeds is not None:
        words += ["--seeds", ",".join(map(str, range(seeds)))]
    if out is not None:
        words += ["--run-dir", str(out)]
    given = [word for word in arguments if word != "--"]
    if code := subprocess.run([*words, *given], check=False).returncode:
        sys.exit(code)
