from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metagen.errors import UserError
from metagen.seeding import torch_generator
from metagen.tasks import DataConfig, ImageSet, load
from metagen.tasks.episodes import sample_classes


def _write(path: Path, classes: int, each: int, seed: int, split: int = 0) -> Path:
    images = np.random.default_rng(seed).integers(0, 256, (classes * each, 8, 8), dtype=np.uint8)
    labels = np.repeat(np.arange(classes), each)
    names = np.array([f"c{i}" for i in range(classes)])
    np.savez(path, images=images, labels=labels, names=names, split=np.full(classes, split))
    return path


def _mixture(*parts: dict[str, Any], **others: Any) -> ImageSet:
    values = [{"source": "npz", **part, "path": str(part["path"])} for part in parts]
    return load(DataConfig.parse({"source": "mixture", "image_size": 8, "parts": values, **others}))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A large set of 12 classes and a small one of 3."""
    return _write(tmp_path / "large.npz", 12, 4, 0), _write(tmp_path / "small.npz", 3, 5, 1)


def test_a_mixture_holds_every_part_as_it_is(two: tuple[Path, Path]) -> None:
    mixed = _mixture({"path": two[0]}, {"path": two[1], "name": "little", "polarity": "invert"})
    assert mixed.name == "large+little"
    assert (mixed.classes[0], mixed.classes[12]) == ("large/c0", "little/c0")
    for start, path, polarity in ((0, two[0], "keep"), (12, two[1], "invert")):
        alone = load(DataConfig(source="npz", path=str(path), image_size=8, polarity=polarity))  # type: ignore[arg-type]
        for index in range(len(alone.classes)):
            assert np.array_equal(mixed.class_images(start + index), alone.class_images(index))
    assert mixed.domains[12] == "little"


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e6])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_parts_are_drawn_by_weight_and_temperature(two: tuple[Path, Path], temperature: float, weight: float) -> None:
    mixed = _mixture({"path": two[0]}, {"path": two[1], "weight": weight}, temperature=temperature)
    drawn = sample_classes(mixed, "train", 4000, 4, torch_generator("draws"), mixed.weights)
    shares = [12 ** (1 / temperature), weight * 3 ** (1 / temperature)]
    assert np.mean([index >= 12 for index in drawn]) == pytest.approx(shares[1] / sum(shares), abs=0.03)


def test_what_one_part_tests_on_no_other_trains_on(tmp_path: Path, two: tuple[Path, Path]) -> None:
    """The same file as a part to train on and as one to test on: nothing is left to train on of it."""
    test = _write(tmp_path / "test.npz", 12, 4, 0, split=2)
    mixed = _mixture({"path": two[0]}, {"path": two[1]}, {"path": test})
    assert mixed.counts[:12].tolist() == [0] * 12
    assert mixed.counts[12:15].tolist() == [5] * 3
    assert any("48 train and valid images were left out" in note for note in mixed.notes)
    seen = {image.tobytes() for i in mixed.members("train") for image in mixed.class_images(int(i))}
    held = {image.tobytes() for i in mixed.members("test") for image in mixed.class_images(int(i))}
    assert len(held) == 48
    assert not seen & held


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "mixture"}, "parts: source 'mixture' needs them: .* or give one of them as --data PATH"),
        ({"parts": [{"source": "pictograms"}]}, "parts: source 'pictograms' takes none: set source: mixture"),
        ({"source": "mixture", "parts": [{"source": "npz"}]}, "parts.0: path: source 'npz' needs one"),
        ({"source": "mixture", "parts": [{"source": "mixture"}]}, "no mixtures as parts"),
        ({"source": "mixture", "parts": [{"source": "pictograms", "weight": 0}]}, "weight"),
        ({"source": "mixture", "parts": [{"source": "pictograms", "wait": 1}]}, "did you mean 'weight'"),
        ({"source": "mixture", "polarity": "auto", "parts": [{"source": "pictograms"}]}, "those of its parts"),
        ({"source": "mixture", "temperature": 0, "parts": [{"source": "pictograms"}]}, "temperature"),
    ],
)
def test_a_wrong_mixture_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig.parse(values)


def test_a_part_that_cannot_be_loaded_or_has_anothers_name_is_named(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"data\.parts\.1: .*missing\.npz: no such file"):
        _mixture({"path": two[0]}, {"path": two[0].with_name("missing.npz")})
    with pytest.raises(UserError, match=r"two are called 'large': give one a name"):
        _mixture({"path": two[0]}, {"path": two[0]})
