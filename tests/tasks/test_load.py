"""The registry, the config, the user's own sources and polarity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metagen.errors import UserError
from metagen.tasks import REGISTRY, DataConfig, load
from metagen.tasks.pixels import with_polarity

OWN = """
import numpy as np
from metagen.tasks import ImageSet

class Dots:
    def __new__(cls, config):
        images = np.zeros((4, config.channels, 8, 8), np.uint8)
        split = np.zeros(2, np.uint8)
        return ImageSet("dots", images, np.array([0, 2, 4]), ("a", "b"), ("", ""), split, "made")

def broken(config):
    return 7

def faulty(config):
    raise ZeroDivisionError

word = "not callable"
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_source.py").write_text(OWN)
    (tmp_path / "own_fault.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_source", raising=False)
    return "own_source"


def test_an_unknown_source_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown source 'pictogram'; did you mean 'pictograms'"):
        load(DataConfig(source="pictogram"))


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_a_relative_path_that_leads_nowhere_says_from_where(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps it as it was given: seen from elsewhere it is another."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^mine: no such \w+ \(seen from '{tmp_path}'\); "):
        load(DataConfig(source=source, path="mine"))
    with pytest.raises(UserError, match=rf"^{tmp_path}/mine: no such \w+; "):
        load(DataConfig(source=source, path=str(tmp_path / "mine")))


def test_a_source_of_ones_own_is_found_by_name(own_module: str) -> None:
    images = load(DataConfig(source=f"{own_module}:Dots", image_size=8, channels=3))
    assert images.images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("own_source:Dotz", "has no 'Dotz'; did you mean 'Dots'"),
        ("own_source:word", "not callable"),
        ("own_source:broken", "returned int, not an ImageSet"),
        ("own_source:Dots", "gave 1 channels at 8 pixels, but the config asks for 1 at 28"),
        ("no_such_package.module:Class", "no module 'no_such_package'"),
        ("own_source.inner:Class", "no module 'own_source.inner'"),
        ("own_source:", "not of the form"),
        (":Dots", "not of the form"),
        ("../own_source:Dots", "not of the form"),
        ("own_source:Dots.__class__", "not of the form"),
    ],
)
def test_a_wrong_name_of_ones_own_says_what_is_wrong(own_module: str, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(DataConfig(source=source))


def test_faults_inside_a_users_source_keep_their_traceback(own_module: str) -> None:
    with pytest.raises(ZeroDivisionError):
        load(DataConfig(source=f"{own_module}:faulty"))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        load(DataConfig(source="own_fault:Any"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 4}, "image_size"),
        ({"image_size": 1024}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"source": "folder"}, "path: source 'folder' needs one: set data.path to .* or give it as --data PATH"),
        ({"source": "npz"}, "path: source 'npz' needs one"),
        ({"source": "npz", "path": " "}, "path: empty"),
        ({"source": "pictograms", "path": "x"}, "set source: folder or npz"),
        ({"polarty": "auto"}, "did you mean 'polarity'"),
    ],
)
def test_a_wrong_config_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig.parse(values)


def test_every_registered_source_is_callable_by_its_own_name() -> None:
    assert {name: source.__name__ for name, source in REGISTRY.items()} == {name: name for name in REGISTRY}


@pytest.mark.parametrize(("ground", "ink", "inverted"), [(255, 0, True), (200, 255, True), (0, 255, False)])
def test_auto_polarity_makes_the_ground_dark_and_says_so(tmp_path: Path, ground: int, ink: int, inverted: bool) -> None:
    (tmp_path / "a").mkdir()
    picture = Image.new("L", (8, 8), ground)
    picture.paste(ink, (2, 2, 6, 6))
    picture.save(tmp_path / "a" / "1.png")

    def pixels(polarity: str) -> tuple[np.ndarray[Any, Any], str]:
        images = load(
            DataConfig.parse({"source": "folder", "path": str(tmp_path), "image_size": 8, "polarity": polarity})
        )
        return images.images, " ".join(images.notes)

    kept, note = pixels("keep")
    assert kept[0, 0, 0, 0] == ground
    assert note == ""
    turned, note = pixels("invert")
    assert np.array_equal(turned, 255 - kept)
    assert "inverted" in note
    chosen, note = pixels("auto")
    assert np.array_equal(chosen, turned if inverted else kept)
    assert ("inverted" in note) == inverted
    assert f"the border is {ground}" in note


@pytest.mark.parametrize(("bright", "said"), [(3, "inverted"), (1, "kept")])
def test_auto_polarity_says_how_many_images_are_the_other_way_round(bright: int, said: str) -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    images[:bright] = 255
    turned, (note,) = with_polarity(images, "auto")
    assert np.array_equal(turned, 255 - images if said == "inverted" else images)
    ground = "dark" if said == "inverted" else "bright"
    assert f"images were {said} " in note
    assert note.endswith(f", also 1 of 4 on a {ground} ground")


def test_importing_the_package_imports_neither_torch_nor_ray_nor_click() -> None:
    code = "import sys, metagen.tasks; assert not {'torch', 'ray', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
