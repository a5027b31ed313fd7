"""Every preset trains and is evaluated as it stands, made small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launch.preset import presets
from metagen.config import RunConfig
from metagen.values import read_yaml


def _smaller(preset: str, data: Path) -> list[object]:
    """Options that shrink a preset to seconds; its family, estimators, policy and optimisers stay."""
    config = RunConfig.parse(read_yaml(presets()[preset]))
    changes = [
        f"data={{source: npz, path: '{data}', image_size: 16}}",
        "episode={shots: 3, queries: 2, draws: 1}",
        "precision=fp32",
        "together=1",
        "generator.architecture.embedding=16",
        f"generator.architecture.widths={[16] * len(config.generator.architecture.widths)}",
    ]
    for number, phase in enumerate(config.phases):
        changes += [f"phases.{number}.items=1", f"phases.{number}.tasks=2"]
        if "query_at" in phase.options:
            changes.append(f"phases.{number}.options.query_at={{0: 1, 2: 1}}")
    return [part for change in changes for part in ("--set", change)]


@pytest.mark.parametrize("preset", sorted(presets()))
def test_every_preset_trains_and_is_evaluated(preset: str, tiny_npz: Path, tmp_path: Path, metagen: Any) -> None:
    run = tmp_path / "run"
    phases = len(read_yaml(presets()[preset])["phases"])
    options = ["--pool", "serial", "--steps", phases + 1, "--run-dir", run]
    done = metagen("train", preset, *_smaller(preset, tiny_npz), *options)
    assert (done.code, done.errors) == (0, [])
    done = metagen("evaluate", run, "--tasks", 2, "--steps", "0,1")
    assert (done.code, done.errors) == (0, [])
    report = json.loads((run / "evaluation.json").read_text())
    assert re.sub(r"\s", "", report["metric"]) in re.sub(r"[\s│]", "", done.out)
    assert report["methods"]["meta"]["query_loss"]["0"] == report["methods"]["finetune"]["query_loss"]["0"]
    with Image.open(run / "samples.png") as picture:
        assert picture.width > 4 * 64


@pytest.fixture
def of_another_family(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> Path:
    """A tiny run of the edm family on the packaged set."""
    run = tmp_path / "edm"
    options = ["--set", "generator.family=edm", "--set", "data={source: pictograms, image_size: 28}"]
    done = metagen("train", tiny_yaml, *options, "--steps", 2, "--run-dir", run)
    assert done.code == 0
    return run


def test_the_packaged_baseline_is_left_out_where_it_does_not_compare(of_another_family: Path, metagen: Any) -> None:
    done = metagen("evaluate", of_another_family, "--tasks", 1, "--steps", 0)
    assert done.code == 0
    [note] = [line for line in done.err.splitlines() if "baseline" in line]
    assert re.match(r"note: the packaged joint baseline is of family 'flow' and measured in velocity error", note)
    assert "joint" not in json.loads((of_another_family / "evaluation.json").read_text())["methods"]


def test_a_baseline_of_another_metric_is_refused(
    of_another_family: Path, tiny_yaml: Path, tmp_path: Path, metagen: Any
) -> None:
    other = tmp_path / "flow"
    options = ["--set", "data={source: pictograms, image_size: 28}", "--steps", 2, "--run-dir", other]
    assert metagen("train", tiny_yaml, *options).code == 0
    done = metagen("evaluate", of_another_family, "--tasks", 1, "--steps", 0, "--joint", other)
    assert done.code == 2
    [error] = done.errors
    assert "is measured in velocity error (mean square), the checkpoint to evaluate in denoising error" in error
    assert "train the baseline with the same generator.family" in error
