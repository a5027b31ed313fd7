"""Laws over the real packaged set."""

from __future__ import annotations

import gzip
from collections import defaultdict
from importlib import resources

import numpy as np
import pytest

from metagen.tasks import DataConfig, ImageSet, load
from metagen.tasks.imageset import SPLITS
from metagen.tasks.pictograms import copies_across_splits


@pytest.fixture(scope="module")
def packaged() -> ImageSet:
    return load(DataConfig())


def test_every_class_is_in_exactly_one_split(packaged: ImageSet) -> None:
    members = [set(packaged.members(split).tolist()) for split in SPLITS]
    assert [len(split) for split in members] == [621, 103, 123]
    assert set.union(*members) == set(packaged.members("all").tolist())
    assert sum(map(len, members)) == len(packaged.classes) == 847


def test_no_image_is_in_two_splits(packaged: ImageSet) -> None:
    splits = defaultdict(set)
    for image, code in zip(packaged.images, np.repeat(packaged.split, packaged.counts), strict=True):
        splits[image.tobytes()].add(int(code))
    assert all(len(codes) == 1 for codes in splits.values())


def test_copies_are_left_out_before_test_and_reported(packaged: ImageSet) -> None:
    assert packaged.notes == ("10 train and valid images were left out: the same image is in a later split",)
    a, b, c = np.eye(3, dtype=np.uint8)[:, None]
    images = np.stack([a, b, b, a, c, b, c, c])
    assert copies_across_splits(images, np.array([0, 0, 1, 1, 1, 2, 0, 1], np.uint8)) == [0, 1, 2, 6]


def test_every_class_has_twenty_images_of_bright_ink_on_dark(packaged: ImageSet) -> None:
    assert packaged.images.shape == (24297, 1, 28, 28)
    assert packaged.too_few("all", 20) == []
    assert set(packaged.domains) == {"icon", "glyph"}
    assert packaged.images.reshape(len(packaged.images), -1).max(1).min() > 64
    assert np.median(packaged.images[:, 0, 0]) == 0


def test_grey_is_replicated_to_colour(packaged: ImageSet) -> None:
    coloured = load(DataConfig(channels=3))
    assert all(np.array_equal(coloured.images[:, channel], packaged.images[:, 0]) for channel in range(3))


def test_other_sizes_keep_the_mean_ink(packaged: ImageSet) -> None:
    small = load(DataConfig(image_size=14))
    assert small.images.shape == (24297, 1, 14, 14)
    boxes = packaged.images[:, 0].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    assert np.abs(boxes - small.images[:, 0]).max() <= 1


def test_the_credits_name_every_image_and_every_icon_set() -> None:
    data = resources.files("metagen.tasks").joinpath("data")
    with data.joinpath("pictograms28.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        labels = arrays["labels"].tolist()
    lines = gzip.decompress(data.joinpath("pictograms28.credits.tsv.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    assert [int(label) for label, _ in rows] == labels
    described = {line.split("\t")[0] for line in data.joinpath("icon_sets.tsv").read_text().splitlines()[1:]}
    assert {origin.split(":")[0] for _, origin in rows} == described | {"font"}
    readme = data.joinpath("README.md").read_text()
    assert all(word in readme for word in ("Brian Kent", "Open Font License", "CC-BY"))
