from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.generators.description import _at_dots
from launch.preset import load_config
from metagen.config import RunConfig
from metagen.describe import describe
from metagen.values import read_yaml


def test_the_table_and_the_json_hold_what_the_library_counts(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    target = tmp_path / "out" / "network.json"
    done = metagen("describe", tiny_yaml, "--json", target)
    assert done.code == 0
    assert done.err == ""
    found = describe(RunConfig.parse(read_yaml(tiny_yaml)))
    written = json.loads(target.read_text())
    assert written["parameters"] == found.parameters
    assert written["flops_image"] == found.flops_image
    assert written["memory"] == found.memory
    assert [layer["name"] for layer in written["layers"]] == [layer.name for layer in found.layers]
    for text in ("tiny: flow, images 1x16x16", f"{found.parameters:,}", "learned-steps, "):
        assert text in done.out
    assert "joint x 3, 3 items of 2 tasks; then fomaml x 2" in done.out
    assert "estimated" in done.out


def test_a_terminal_of_80_columns_shows_every_layers_name_whole(metagen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = metagen("describe", "quickstart").out
    assert {layer.name for layer in describe(load_config("quickstart")).layers} <= set(out.split())


@pytest.mark.parametrize(
    ("room", "lines"),
    [
        (12, ["up.0.block"]),
        (9, ["up.0.", "  block"]),
        (5, ["up.0.", "  block"]),
        (2, ["up.0.", "  block"]),
        (-4, ["up.0.", "  block"]),
    ],
)
def test_a_name_is_broken_after_its_dots(room: int, lines: list[str]) -> None:
    assert _at_dots("up.0.block", room).split("\n") == lines
    assert _at_dots("embedding", room) == "embedding"


def test_it_takes_presets_and_changes(metagen: Any) -> None:
    small, large = (
        metagen("describe", "quickstart", "--set", f"generator.architecture.widths=[{width}]") for width in (16, 32)
    )
    assert small.code == large.code == 0
    assert small.out != large.out
    assert "quickstart: flow, images 1x28x28" in small.out


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["quikstart"], "did you mean 'quickstart'?"),
        (["missing.yaml"], "cannot be read"),
        (["quickstart", "--set", "generator.family=gans"], "'gans'; did you mean 'gan'?"),
        (["gan", "--set", "generator.options.penalty=-1"], "penalty"),
        (["gan", "--set", "generator.options.los=pairing"], "los: unknown key; did you mean 'loss'?"),
        (["quickstart", "--json", "/proc/metagen/network.json"], "--json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], needle: str, metagen: Any) -> None:
    done = metagen("describe", *arguments)
    assert done.code == 2
    assert len(done.errors) == 1
    assert needle in done.errors[0]
