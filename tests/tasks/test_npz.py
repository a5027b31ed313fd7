from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metagen.errors import UserError
from metagen.tasks import DataConfig, ImageSet, load, split_by_hash
from metagen.tasks.npz import read_arrays

GOOD: dict[str, Any] = {
    "images": np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8),
    "labels": np.array([2, 0, 2, 0, 1, 2]),
    "names": np.array(["ant", "bee", "cat"]),
}


def _saved(path: Path, **changes: Any) -> Path:
    arrays = {key: value for key, value in (GOOD | changes).items() if value is not None}
    np.savez_compressed(path / "set.npz", **arrays)
    return path / "set.npz"


def _load(path: Path, **values: Any) -> ImageSet:
    return load(DataConfig.parse({"source": "npz", "path": str(path), "image_size": 8, **values}))


def test_images_are_sorted_by_class_and_keep_their_order(tmp_path: Path) -> None:
    images = _load(_saved(tmp_path))
    assert images.images[:, 0, 0, 0].tolist() == [1, 3, 4, 0, 2, 5]
    assert images.offsets.tolist() == [0, 2, 3, 6]
    assert images.classes == ("ant", "bee", "cat")
    assert images.split.tolist() == split_by_hash(["ant", "bee", "cat"]).tolist()
    assert (images.name, images.notes) == ("set", ())


def test_split_and_domain_are_taken_from_the_file(tmp_path: Path) -> None:
    images = _load(_saved(tmp_path, split=np.array([0, 1, 2]), domain=np.array(["x", "x", "y"])))
    assert images.split.tolist() == [0, 1, 2]
    assert images.domains == ("x", "x", "y")
    assert images.split_origin == "split given by the file set.npz"


def test_a_class_without_images_is_reported(tmp_path: Path) -> None:
    images = _load(_saved(tmp_path, names=np.array(["ant", "bee", "cat", "dog"])))
    assert images.counts.tolist() == [2, 1, 3, 0]
    assert images.notes == ("classes without images (1): 'dog'",)


@pytest.mark.parametrize("shape", [(6, 8, 8, 1), (6, 8, 8, 3), (6, 10, 7), (6, 10, 7, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_form_becomes_the_form_of_the_config(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    path = _saved(tmp_path, images=np.full(shape, 50, np.uint8))
    images = _load(path, image_size=16, channels=channels)
    assert images.images.shape == (6, channels, 16, 16)
    assert (images.images == 50).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no key 'labels'; it has 'images', 'names'; it needs 'images', 'labels', 'names'"),
        ({"images": GOOD["images"] / 255}, "images are float64; save them as uint8"),
        ({"images": GOOD["images"][0]}, r"images have shape \(8, 8\)"),
        (
            {"images": np.zeros((0, 8, 8), np.uint8)},
            r"set\.npz: has no images \(their shape is \(0, 8, 8\)\); save some",
        ),
        (
            {"images": np.zeros((6, 0, 8), np.uint8)},
            r"set\.npz: has images without pixels \(their shape is \(6, 0, 8\)",
        ),
        ({"images": np.zeros((6, 3, 8, 8), np.uint8)}, r"images\.transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8)}, "last axis must be 1 or 3$"),
        ({"images": GOOD["images"].astype(object)}, "never unpickles"),
        ({"names": GOOD["names"].astype(object)}, "names is an object array"),
        ({"names": np.arange(3)}, "names is int64 .* must be text"),
        ({"names": np.array([], dtype="U1")}, "names has 0 entries"),
        ({"names": np.array(["a", "b", "a"])}, r"set\.npz: two classes are called 'a'"),
        ({"names": np.array(["a", "b", "../c"])}, r"set\.npz: class name '../c' cannot be used"),
        ({"names": np.array(["a", "b", "a\nb"])}, r"set\.npz: class name 'a\\nb' cannot be used"),
        ({"labels": np.array([0, 1, 2, 3, 0, 0])}, r"labels run from 0 to 3, .* they must lie in 0\.\.2"),
        ({"labels": np.array([0, -1, 2, 1, 0, 0])}, "labels run from -1 to 2"),
        ({"labels": np.zeros(5, int)}, r"labels are int64 \(5,\); save 6 integers"),
        ({"labels": np.zeros(6)}, "labels are float64"),
        ({"split": np.array([0, 1, 3])}, r"split has 0\.\.3; use 0 for train"),
        ({"split": np.array([0, 1])}, "must be 3 integers"),
        ({"domain": np.array(["x"])}, "domain has 1 entries"),
    ],
)
def test_each_mistake_is_one_line_that_says_the_fix(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = _saved(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        _load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_npz_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        _load(tmp_path / "missing.npz")
    with pytest.raises(UserError, match="is not a file"):
        _load(tmp_path)
    np.save(tmp_path / "one.npy", GOOD["images"])
    with pytest.raises(UserError, match=r"not an \.npz file"):
        _load(tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        for name in GOOD:
            archive.writestr(name, "text")
    with pytest.raises(UserError, match="images is not an array"):
        _load(tmp_path / "text.npz")


def test_a_file_cut_or_altered_anywhere_is_a_user_error_or_whole(tmp_path: Path) -> None:
    good = _saved(tmp_path).read_bytes()
    bad = tmp_path / "bad.npz"
    for cut in range(0, len(good), 37):
        bad.write_bytes(good[:cut])
        with pytest.raises(UserError):
            _load(bad)
    for position in range(0, len(good), 11):
        altered = bytearray(good)
        altered[position] ^= 0x55
        bad.write_bytes(altered)
        try:
            _load(bad)
        except UserError:
            continue


def test_a_header_that_claims_terabytes_is_a_user_error(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for name in GOOD:
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(UserError, match=r"too large|damaged"):
        _load(tmp_path / "huge.npz")


def test_an_archive_that_claims_more_than_the_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of zeros takes a kilobyte; here the machine is small instead of the file large."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((1000, 32, 32), np.uint8), labels=np.zeros(1000, int), names=["a"])
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 1024}[name])
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"unpacks to 0\.0 GiB, more than half of this machine's memory"):
        read_arrays(path, required=("images",))


def test_class_folders_in_a_zip_are_told_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as file:
        file.writestr("cat/1.png", b"pixels")
    with pytest.raises(UserError, match=r"mine\.zip: a zip of folders, not an \.npz: unpack it and give the folder"):
        _load(tmp_path / "mine.zip")
