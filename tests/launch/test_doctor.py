"""``metagen doctor``: every line that is not good comes with a fix."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from launch.clusters import diagnosis
from launch.clusters.diagnosis import BAD, GOOD, POOR, Finding


def _found(check: Any) -> list[Finding]:
    return list(check())


def test_a_good_machine_is_told_so_line_by_line(metagen: Any) -> None:
    done = metagen("doctor")
    assert done.code == 0, done.out
    for what in ("python", "torch", "gpu", "cores", "memory", "disk", "ray", "port 6379", "ray token"):
        assert re.search(rf"^(ok|poor|bad) +{what}", done.out, re.MULTILINE), what
    for line in done.out.splitlines():
        assert line.startswith("ok") or "->" in line


def test_another_python_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 9, 1))
    [finding] = _found(diagnosis.python)
    assert (finding.state, finding.seen) == (BAD, "3.9.1")
    assert "3.12" in finding.fix


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for cuda, state, word in ((None, POOR, "CUDA index"), ("12.8", BAD, "driver")):
        monkeypatch.setattr("torch.version.cuda", cuda)
        finding = _found(diagnosis.torch_build)[-1]
        assert finding.state == state
        assert word in finding.fix


def test_little_memory_and_little_disk_are_poor(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, 1))
    monkeypatch.setattr(diagnosis, "_available_memory", lambda: 1)
    for finding in [*_found(diagnosis.memory), *_found(diagnosis.disk)]:
        assert finding.state == POOR
        assert finding.fix


def test_a_token_that_others_can_read_is_poor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for mode, state in ((0o644, POOR), (0o600, GOOD)):
        token.chmod(mode)
        assert _found(diagnosis.ray_here)[-1].state == state


def test_a_cluster_that_does_not_answer_is_bad_and_the_exit_code_says_so(metagen: Any) -> None:
    done = metagen("doctor", "--address", "http://127.0.0.1:9")
    assert done.code == 2
    assert re.search(r"^bad +dashboard: .*-> is the cluster up", done.out, re.MULTILINE)
    done = metagen("doctor", "--address", "nothing.yaml")
    assert done.code == 2
    assert "-> write one with 'metagen cluster init'" in done.out
