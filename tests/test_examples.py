"""The examples of the documentation run as they stand: parts of one's own, named in a config, on Ray actors too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from metagen.checkpoint import load_checkpoint

DOCS = Path(__file__).parent.parent / "docs"


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the family, policy and estimator of one page, the task source of another, and a config."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.py").write_text("\n\n".join(_blocks("extending.md", "python")))
    [stars] = [block for block in _blocks("own-data.md", "python") if "def stars(" in block]
    (folder / "stars.py").write_text(stars)
    [config] = [yaml.safe_load(block) for block in _blocks("extending.md", "yaml")]
    config |= {
        "data": {"source": "stars:stars", "image_size": 16},
        "episode": {"shots": 2, "queries": 2, "draws": 1},
        "precision": "fp32",
    }
    config["generator"]["architecture"] = {"widths": [16], "embedding": 16}
    for phase in config["phases"]:
        phase |= {"items": 2, "tasks": 1}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return folder


def _metagen(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "launch.cli", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def _trained(project: Path, *options: str) -> Any:
    run = f"runs/{'-'.join(options).strip('-')}"
    done = _metagen(project, "train", "mine.yaml", "--steps", "4", "--run-dir", run, *options)
    assert done.returncode == 0, done.stderr
    return load_checkpoint(project / run).state


@pytest.fixture
def importable(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's modules can be imported here as well, as whoever reads a checkpoint of them must be able to."""
    monkeypatch.syspath_prepend(str(project))


@pytest.mark.ray
def test_a_family_a_policy_an_estimator_and_a_task_source_of_ones_own_run_on_actors(
    project: Path, importable: None
) -> None:
    """And give what they give in one process, bit for bit."""
    serial, on_ray = _trained(project, "--pool", "serial"), _trained(project, "--actors", "2")
    assert torch.equal(serial.theta, on_ray.theta)
    assert serial.counts == on_ray.counts
    done = _metagen(project, "evaluate", "runs/actors-2", "--tasks", "2", "--steps", "0,1")
    assert done.returncode == 0, done.stderr
    assert "image error (mean square)" in done.stdout
    with Image.open(project / "runs" / "actors-2" / "samples.png") as picture:
        assert picture.format == "PNG"


def test_a_mistake_in_a_part_of_ones_own_is_found_before_the_run(project: Path) -> None:
    for change, message in (
        ("generator.options.sample_stepz=3", "did you mean 'sample_steps'?"),
        ("generator.family=mine:Perdict", "mine has no 'Perdict'; did you mean 'Predict'?"),
        ("data.image_size=17", "image_size 17 is not a multiple of 2"),
    ):
        done = _metagen(project, "train", "mine.yaml", "--dry-run", "--set", change)
        assert done.returncode == 2
        assert message in done.stderr
