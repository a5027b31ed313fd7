"""Every figure in README and docs is in a committed JSON file."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def test_pages_say_what_the_results_say() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _numbers(value: object) -> Iterator[float]:
    """All numbers in a JSON value: as values, as keys, in texts, and the lengths of lists."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, str):
        yield from (float(text.replace(",", "")) for text in NUMBER.findall(value))
    elif isinstance(value, list):
        yield len(value)
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _numbers(key)
            yield from _numbers(one)


def _without_source(text: str, known: Iterable[float]) -> list[str]:
    """The numbers of ``text`` that none of ``known`` is written as, to their decimals, as it is or in percent."""
    found = []
    values = [abs(value) for value in known if math.isfinite(value)]
    for number in sorted(set(NUMBER.findall(text))):
        plain = number.replace(",", "")
        digits = len(plain.partition(".")[2])
        written = {f"{scale * value:.{digits}f}" for value in values for scale in (1, 100)}
        if plain not in written:
            found.append(number)
    return found


def test_no_number_on_the_page_of_results_is_without_a_json_file() -> None:
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    known = {number for values in results for number in _numbers(values)}
    text = (ROOT / "docs" / "results.md").read_text()
    assert len(NUMBER.findall(text)) > 100
    assert _without_source(text, known) == []


def test_a_number_from_nowhere_is_found() -> None:
    known = [*_numbers({"a": [1.23456, "7 of 9"], "5": None})]
    text = "1.235 and 1.23, 123.5%, 7 of 9, 2 of 5, +0.7, 1.24 and 8,000"
    assert _without_source(text, known) == ["0.7", "1.24", "8,000"]
