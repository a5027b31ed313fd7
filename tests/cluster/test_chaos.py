"""A run that actors, a node and the driver of are killed, frozen and lied to: the same weights, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_a_short_run_under_faults_of_every_kind_is_the_run_without() -> None:
    """In a process of its own, for a cluster of three nodes; benchmarks/chaos.py is the long version."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "benchmarks/chaos.py", "--short"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'held': True" in done.stdout
