"""The examples of the documentation run as they stand: parts of one's own, named in a config, on Ray actors too."""

from __future__ import annotations

import os
import re
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


NO_METRIC = """
class NoMetric:
    from mine import Predict
    Options = Predict.Options
    def __init__(self, arch, options, channels, image_size):
        self.channels, self.image_size = channels, image_size
    build = draw = losses = scores = sample = None
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the family, policy and estimator of one page, the task source of another, and a config."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.py").write_text("\n\n".join(_blocks("extending.md", "python")))
    [stars] = [block for block in _blocks("own-data.md", "python") if "def stars(" in block]
    (folder / "stars.py").write_text(stars + NO_METRIC)
    [config] = [yaml.safe_load(block) for block in _blocks("extending.md", "yaml")]
    config |= {
        "data": {"source": "stars:stars", "image_size": 16},
        "episode": {"shots": 2, "queries": 2, "draws": 1},
        "precision": "fp32",
        "together": 1,
    }
    config["generator"]["architecture"] = {"widths": [16], "embedding": 16}
    for phase in config["phases"]:
        phase |= {"items": 2, "tasks": 1}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's folder, where the modules can be imported, as whoever reads a checkpoint of them must be able to;
    by a process that is started here, too."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setenv("PYTHONPATH", str(project), prepend=os.pathsep)
    for module in ("mine", "stars"):  # what another test imported by these names
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.mark.ray
def test_a_family_a_policy_an_estimator_and_a_task_source_of_ones_own_run_on_actors(
    metagen: Any, start_metagen: Any
) -> None:
    """And give what they give in one process, bit for bit."""
    train = ["train", "mine.yaml", "--steps", "4", "--run-dir"]
    process = start_metagen(*train, "runs/ray", "--actors", "2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "2 Ray actors" in out
    done = metagen(*train, "runs/serial", "--pool", "serial")
    assert done.code == 0, done.err
    on_ray, serial = load_checkpoint(Path("runs/ray")).state, load_checkpoint(Path("runs/serial")).state
    assert torch.equal(serial.theta, on_ray.theta)
    assert serial.counts == on_ray.counts
    done = metagen("evaluate", "runs/ray", "--tasks", "2", "--steps", "0,1", "--workers", "2")
    assert done.code == 0, done.err
    assert "image error (mean square)" in done.out
    with Image.open("runs/ray/samples.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("generator.options.sample_stepz=3", "did you mean 'sample_steps'?"),
        ("generator.family=mine:Perdict", "mine has no 'Perdict'; did you mean 'Predict'?"),
        ("data.image_size=17", "image_size 17 is not a multiple of 2"),
        (
            "policy.name=mine:LastStep",
            "policy 'mine:LastStep' lacks initial, wants_halves, step, hypergradient, describe",
        ),
        ("phases.0.estimator=mine:Decay", "estimator 'mine:Decay' lacks estimate"),
        ("generator.family=stars:NoMetric", "family 'stars:NoMetric' lacks metric"),
    ],
)
def test_a_mistake_in_a_part_of_ones_own_is_found_before_the_run(change: str, message: str, metagen: Any) -> None:
    done = metagen("train", "mine.yaml", "--dry-run", "--set", change)
    assert done.code == 2
    assert message in done.err
