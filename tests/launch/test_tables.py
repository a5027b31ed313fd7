from __future__ import annotations

from typing import Any

import pytest

from launch.generators.page import html_page
from launch.generators.tables import print_tables
from metagen.quality import READINGS

METHODS = ("meta", "finetune", "finetune_oracle", "joint")
CATEGORIES = ("round", "square", "outlines")


def _cell(mean: float) -> dict[str, Any]:
    categories = {name: {"mean": mean, "classes": 3} for name in CATEGORIES}
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "by_category": categories}


def _values() -> dict[str, Any]:
    """An evaluation against all rivals at four numbers of steps, in all of its tables."""
    steps = (0, 5, 10, 20)
    each = {str(k): _cell(0.1234) for k in steps}
    methods = {name: {"query_loss": each, **({"meta_minus_this": each} if name != "meta" else {})} for name in METHODS}
    made = {
        name: {metric: _cell(0.05 if metric == "kid" else 0.5) for metric in READINGS}
        for name in (*METHODS, "copycat", "real")
    }
    samples = {"images": 72, "steps": 20, "extractor": "strokes", "methods": made}
    shown = {"metric": "loss", "classes": {"a": 0}, "data": "tiny", "split": "test", "shots": 5, "steps": steps}
    return {**shown, "methods": methods, "samples": samples}


PIECES = {"finetune_", "oracle", "recognis-", "ability"}


def _printed(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_tables(_values())
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 110])
def test_no_table_of_an_evaluation_breaks_a_word_or_a_number(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = set(_printed(200, capsys, monkeypatch).split())
    out = _printed(columns, capsys, monkeypatch)
    assert max(map(len, out.splitlines())) <= columns
    ends = {end for word in whole if "-" in word for end in (word.partition("-")[0] + "-", word.partition("-")[2])}
    assert not {word.strip("─") for word in out.split()} - whole - ends - PIECES - {""}


def test_no_table_of_the_page_has_more_columns_than_fit() -> None:
    """Losses and eight metrics by category, side by side, were cut off at 1280 pixels."""
    about = {"checkpoint": "run", "step": 1, "metagen": "0", "split_origin": "split by hand"}
    page = html_page({**_values(), **about}, [])
    tables = page.split("<table>")[1:]
    assert max(table.partition("</thead>")[0].count("<th>") for table in tables) <= 1 + len(READINGS)
    assert "Split by hand." in page
