"""Files that commands write: whole, or as they were."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from PIL import Image

from launch.output import PICTURES, check_picture, check_writable, write_json, write_picture, write_text
from metagen.errors import UserError
from metagen.lines import append

PICTURE = Image.new("L", (8, 8), 90)


@pytest.mark.parametrize("suffix", [*PICTURES, ".PNG"])
def test_every_name_that_is_taken_for_a_picture_can_be_written(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"a{suffix}"
    check_picture(target, "--out")
    write_picture(PICTURE, target, "--out")
    with Image.open(target) as found:
        assert found.size == (8, 8)


@pytest.mark.parametrize("suffix", ["", ".psd", ".xbm", ".foo", ".h5"])
def test_a_name_that_no_picture_is_written_under_is_refused_before_the_work(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choose a .png with --out"):
        check_picture(tmp_path / f"a{suffix}", "--out")


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.png"
    write_picture(PICTURE, target, "--out")
    before = target.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for write in (lambda: write_picture(PICTURE, target, "--out"), lambda: write_text(target, "words", "--json")):
        with pytest.raises(UserError, match="No space left on device"):
            write()
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path / "private" / "a.json", "--json")


def test_figures_are_strict_json_whatever_diverged(tmp_path: Path) -> None:
    """Most programs but Python refuse a file with Infinity or NaN in it."""
    lost = {"0": math.inf, "5": [0.5, -math.inf, {"mean": math.nan}], "name": "Infinity"}
    write_json(tmp_path / "lost.json", {"losses": lost, "steps": (1, 2)})
    append(tmp_path / "log.jsonl", "step", {"loss": math.nan, "results": [{"loss": 0.5}]})

    def refused(word: str) -> None:
        raise AssertionError(word)

    found = json.loads((tmp_path / "lost.json").read_text(), parse_constant=refused)
    assert found == {"losses": {"0": None, "5": [0.5, None, {"mean": None}], "name": "Infinity"}, "steps": [1, 2]}
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refused)
    assert (line["loss"], line["results"]) == (None, [{"loss": 0.5}])
