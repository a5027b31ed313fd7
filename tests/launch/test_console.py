"""What a run says of itself as it goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.training import console
from launch.training.workers import Workers
from metagen.records import StepReport


def test_the_time_left_is_the_phases_own(
    tiny_config: Any, new_learner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the traces before the first step nor the steps of the phase before say what a step takes."""
    config, now = tiny_config(), 0.0
    assert [phase.steps for phase in config.phases] == [3, 2]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now))
    _, parts = new_learner(config)
    with console.Console(config, Path("run"), Workers.choose(config, "serial", None, None), parts) as shown:
        now = 100.0
        for step, phase, seconds in ((1, 0, 1.0), (2, 0, 1.0), (3, 0, 1.0), (4, 1, 20.0), (5, 1, 20.0)):
            now += seconds
            shown.write(StepReport(step, 5, phase, step, 1, {"loss": 1.0}, {}, 0.1, 1.0, {"total": seconds}))
    said = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines() if " step " in line]
    assert said == ["2 s to fomaml", "1 s to fomaml", "0 s to fomaml", "20 s left", "0 s left"]
