from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from metagen.checkpoint import load_checkpoint


def test_a_profile_has_the_operations_of_every_phase_and_of_a_step_and_changes_nothing(
    tiny_yaml: Path, tmp_path: Path, metagen: Any, tiny_config: Any, run_to_end: Any
) -> None:
    folder = tmp_path / "run"
    done = metagen("train", tiny_yaml, "--steps", 7, "--profile", "--run-dir", folder)
    assert done.code == 0, done.err
    traces = {path.name.partition(".")[0]: path for path in (folder / "profile").iterdir()}
    assert set(traces) == {"piece-0-joint", "piece-1-fomaml", "steps"}
    for name, path in traces.items():
        names = {event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
        assert "aten::convolution" in names, name
        assert "aten::convolution_backward" in names, name
        if name.startswith("piece"):
            assert str(path) in done.out.replace("\n", "")
    library, _ = run_to_end(tiny_config().with_steps(7))
    assert torch.equal(load_checkpoint(folder / "checkpoints" / "final").state.theta, library.theta)
