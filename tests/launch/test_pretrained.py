from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launch import pretrained
from metagen.checkpoint import MANIFEST, WEIGHTS, load_checkpoint
from metagen.evaluate import method_of

ROOT = Path(__file__).parent.parent.parent
CARD = pretrained.FOLDER / "MODEL_CARD.md"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def drawings(elsewhere: Path) -> Path:
    """Five drawings of a ring, dark on bright paper."""
    folder = elsewhere / "rings"
    folder.mkdir()
    for number in range(5):
        picture = Image.new("L", (60, 60), 255)
        ring = Image.new("L", (40, 40 + number), 0)
        ring.paste(255, (8, 8, 32, 32 + number))
        picture.paste(ring, (10, 8))
        picture.save(folder / f"{number}.png")
    return folder


def test_it_is_whole_small_and_a_checkpoint_of_its_card() -> None:
    saved = load_checkpoint(pretrained.FOLDER)
    method = method_of(saved)
    assert len(method.theta) == method.problem.network.layout.size
    assert sum((pretrained.FOLDER / name).stat().st_size for name in (WEIGHTS, MANIFEST)) <= 4_000_000
    record = json.loads((ROOT / "benchmarks" / "results" / "pretrained.json").read_text())
    assert (record["steps"], record["tasks_seen"]) == (saved.state.step, saved.state.tasks)
    assert record["parameters"] == len(method.theta)
    assert saved.config.name == record["preset_and_settings"][0]


def test_its_card_has_what_a_model_card_needs() -> None:
    text = CARD.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What it is", "Data", "Licence", "Metrics", "Limits"]
    for row in ("recipe", "seed", "training", "time", "size"):
        assert re.search(rf"^\| {row} \| .+ \|$", text, re.MULTILINE)
    assert "Not measured" not in text


def test_adapting_it_to_ones_own_drawings_needs_no_training(drawings: Path, metagen: Any) -> None:
    done = metagen("adapt", "pretrained", drawings, "--samples", 3, "--steps", 2)
    assert done.code == 0, done.err
    made = drawings.with_name("rings-generated")
    assert sorted(path.name for path in made.iterdir()) == ["000.png", "001.png", "002.png", "grid.png"]
    with Image.open(made / "000.png") as image:
        assert image.size == (28, 28)
        assert image.getpixel((0, 0)) > 127  # type: ignore[operator]  # bright paper, as it came


def test_what_is_measured_of_it_goes_where_one_works(elsewhere: Path, metagen: Any) -> None:
    before = sorted(path.name for path in pretrained.FOLDER.iterdir())
    done = metagen("evaluate", "pretrained", "--tasks", 1, "--steps", 0, "--samples", 2)
    assert done.code == 0, done.err
    found = elsewhere / pretrained.RESULTS
    assert sorted(path.name for path in found.iterdir()) == ["evaluation.html", "evaluation.json", "samples.png"]
    assert json.loads((found / "evaluation.json").read_text())["checkpoint"] == "pretrained"
    assert sorted(path.name for path in pretrained.FOLDER.iterdir()) == before


def test_samples_are_drawn_of_it(elsewhere: Path, metagen: Any) -> None:
    assert metagen("sample", "pretrained", "--classes", 1, "--samples", 1, "--out", "s.png").code == 0
    assert (elsewhere / "s.png").is_file()


def test_a_folder_of_that_name_comes_first(elsewhere: Path, trained: Path, metagen: Any) -> None:
    shutil.copytree(trained, elsewhere / "pretrained")
    assert metagen("evaluate", "pretrained", "--tasks", 1, "--steps", 0, "--samples", 0).code == 0
    assert (elsewhere / "pretrained" / "evaluation.json").is_file()
