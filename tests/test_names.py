from __future__ import annotations

from pathlib import Path

import pytest

from launch.preset import load_config
from metagen.errors import UserError
from metagen.names import checked, name_of


@pytest.mark.parametrize("name", ["a", "quickstart-joint", "v1.2_b", "0", "a" * 100])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert checked(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "-a", "_a", "a b", "grün", "a\n", "a" * 101])
def test_a_name_that_would_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        checked(name)


@pytest.mark.parametrize(
    ("stem", "name"), [("mine", "mine"), ("my run (2)", "my-run-2-"), ("..a", "a"), ("größe", "gr-e"), ("日本", "run")]
)
def test_a_config_file_of_any_name_gives_its_run_one(stem: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text("seed: 1\n")
    assert name_of(stem) == name
    assert load_config(str(path)).name == name
