from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metagen.errors import UserError
from metagen.tasks import DataConfig, ImageSet, load, load_class_folder, load_images, split_by_hash


def _load(root: Path, **values: Any) -> ImageSet:
    return load(DataConfig.parse({"source": "folder", "path": str(root), "image_size": 12, **values}))


def _levels(images: ImageSet, name: str) -> list[int]:
    return [int(level) for level in images.class_images(images.index_of(name))[:, 0, 0, 0]]


def test_a_folder_is_a_class_and_order_is_by_name(class_folders: Any) -> None:
    root = class_folders({"owl": 2, "cat": 3})
    images = _load(root)
    assert images.classes == ("cat", "owl")
    assert (_levels(images, "cat"), _levels(images, "owl")) == ([10, 11, 12], [0, 1])
    assert images.split.tolist() == split_by_hash(["cat", "owl"]).tolist()
    assert images.split_origin.startswith("split by a hash")
    assert images.notes == ()
    assert np.array_equal(_load(root).images, images.images)


def test_folders_called_train_valid_test_are_the_split(class_folders: Any) -> None:
    images = _load(class_folders({"test/owl": 1, "train/cat": 2, "valid/dog": 1, "train/ant": 1}))
    assert images.classes == ("ant", "cat", "dog", "owl")
    assert images.split.tolist() == [0, 0, 1, 2]
    assert images.split_origin == "split given by the folders train/, valid/, test/"


def test_classes_may_be_called_train_and_test(class_folders: Any) -> None:
    images = _load(class_folders({"train": 1, "test": 1}))
    assert images.classes == ("test", "train")
    assert _load(class_folders({"train": 1, "plane": 1}, below="others")).classes == ("plane", "train")


def test_a_class_in_two_splits_is_refused(class_folders: Any) -> None:
    with pytest.raises(UserError, match="classes in more than one of train/, valid/, test/: 'cat'"):
        _load(class_folders({"train/cat": 1, "test/cat": 1}))


def test_a_corrupt_image_is_named_or_counted(class_folders: Any) -> None:
    root = class_folders({"cat": 3, "dog": 1})
    (root / "cat" / "1.png").write_bytes(b"not an image")
    with pytest.raises(
        UserError, match=r"cat/1\.png: not a readable .*; remove it, or, to leave .*data.on_corrupt=skip"
    ):
        _load(root)
    images = _load(root, on_corrupt="skip")
    assert _levels(images, "cat") == [0, 2]
    assert images.notes == ("corrupt images, skipped (1): 'cat/1.png'",)


def test_a_class_whose_images_are_all_corrupt_is_left_out_and_reported(class_folders: Any) -> None:
    root = class_folders({"cat": 1, "dog": 1, "empty": 0})
    (root / "cat" / "0.png").write_bytes((root / "dog" / "0.png").read_bytes()[:30])
    images = _load(root, on_corrupt="skip")
    assert images.classes == ("dog",)
    assert "class folders without a readable image, left out (2): 'cat', 'empty'" in images.notes
    (root / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"all 2 images are corrupt, such as 'cat/0\.png', 'dog/0\.png'"):
        _load(root, on_corrupt="skip")


def test_a_bomb_ends_the_run_even_where_corrupt_images_are_skipped(class_folders: Any) -> None:
    root = class_folders({"cat": 1})
    Image.new("1", (8001, 8000)).save(root / "cat" / "bomb.png")
    with pytest.raises(UserError, match=r"cat/bomb\.png: more than 64 megapixels"):
        _load(root, on_corrupt="skip")


def test_what_is_not_read_is_counted(class_folders: Any) -> None:
    root = class_folders({"cat": 1, "cat/inner": 1, ".git": 1})
    for name in ("cat/.hidden.png", "cat/Thumbs.db", "README.txt"):
        (root / name).write_bytes(b"x")
    Image.new("L", (12, 12)).save(root / "stray.png")
    Image.new("L", (12, 12), 99).save(root / "cat" / "UPPER.JPEG")
    images = _load(root)
    assert _levels(images, "cat") == [0, 99]
    assert images.notes == (
        "not read: files that are no PNG, JPEG, WebP or BMP (2)",
        "not read: folders inside class folders (1)",
        "not read: hidden files and folders (2)",
        "not read: images outside class folders (1)",
    )


def test_links_are_followed_only_inside_the_folder(class_folders: Any, tmp_path: Path) -> None:
    outside = class_folders({"secret": 1}, below="outside")
    root = class_folders({"cat": 2})
    (root / "cat" / "a.png").symlink_to(outside / "secret" / "0.png")
    (root / "cat" / "b.png").symlink_to(root / "cat" / "1.png")
    (root / "cat" / "c.png").symlink_to(root / "nothing.png")
    (root / "cat" / "d.png").symlink_to(root / "cat" / "d.png")
    (root / "dog").symlink_to(outside / "secret")
    images = _load(root)
    assert images.classes == ("cat",)
    assert _levels(images, "cat") == [0, 1, 1]
    assert images.notes == ("not read: links that leave the folder or lead nowhere (4)",)
    (tmp_path / "link").symlink_to(root)
    assert len(_load(tmp_path / "link").images) == 3


def test_a_named_pipe_does_not_block(class_folders: Any) -> None:
    root = class_folders({"cat": 1})
    os.mkfifo(root / "cat" / "pipe.png")
    assert _load(root).notes == ("not read: files that are no PNG, JPEG, WebP or BMP (1)",)


@pytest.mark.parametrize("layout", [{}, {"cat": 0}, {"cat/inner/deep": 1}, {"train": 0, "test/cat": 0}])
def test_without_images_the_expected_layout_is_said(class_folders: Any, layout: dict[str, int]) -> None:
    with pytest.raises(UserError, match="PATH/CLASS/IMAGE"):
        _load(class_folders(layout))


def test_a_missing_folder_or_a_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        _load(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        _load(tmp_path / "file")


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", os.fsdecode(b"\xff")])
def test_hostile_folder_names_are_shown_escaped(class_folders: Any, name: str) -> None:
    root = class_folders({name: 1})
    with pytest.raises(UserError, match=f"^{re.escape(str(root))}: class name .* cannot be used") as caught:
        _load(root)
    assert str(caught.value).isprintable()
    (root / name / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match="not a readable") as caught:
        _load(root)
    assert str(caught.value).isprintable()


def test_odd_but_harmless_names_are_kept(class_folders: Any) -> None:
    names = ["$(rm -rf)", "<b>", "[red]", "naïve 猫", "a'b\"c"]
    assert set(_load(class_folders(dict.fromkeys(names, 1))).classes) == set(names)


def test_images_load_in_the_order_given(class_folders: Any) -> None:
    root = class_folders({"cat": 3})
    paths = [root / "cat" / f"{index}.png" for index in (2, 0, 1)]
    images = load_images(paths, 12, 3)
    assert images.shape == (3, 3, 12, 12)
    assert images[:, 0, 0, 0].tolist() == [2, 0, 1]
    paths[1].write_bytes(b"")
    assert len(load_images(paths, 12, 1, on_corrupt="skip")) == 2
    with pytest.raises(UserError, match=r"0\.png: not a readable"):
        load_images(paths, 12, 1)
    with pytest.raises(UserError, match=r"no such image file"):
        load_images([root / "cat"], 12, 1)
    with pytest.raises(UserError, match="no images were given"):
        load_images([], 12, 1)


def test_white_ink_on_a_transparent_ground_is_not_lost_without_a_word(class_folders: Any) -> None:
    root = class_folders({"cat": 2})
    icon = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    icon.paste((255, 255, 255, 255), (3, 3, 9, 9))
    icon.save(root / "cat" / "invert.png")
    told = "images that are white all over, as white ink on a transparent ground becomes (1): "
    assert _load(root).notes == (f"{told}'cat/invert.png'",)
    assert load_class_folder(root / "cat", DataConfig(image_size=12)).notes == (f"{told}'invert.png'",)


def test_one_class_is_loaded_from_a_flat_folder(class_folders: Any) -> None:
    root = class_folders({"mine": 3})
    Image.new("L", (12, 12), 3).save(root / "mine" / "3.webp", lossless=True)
    (root / "mine" / "bad.bmp").write_bytes(b"BM")
    config = DataConfig(image_size=12, on_corrupt="skip", polarity="invert")
    images = load_class_folder(root / "mine", config)
    assert images.classes == ("mine",)
    assert _levels(images, "mine") == [255, 254, 253, 252]
    assert images.members("test").tolist() == [0]
    assert images.notes == ("corrupt images, skipped (1): 'bad.bmp'", "polarity invert: images were inverted")
    with pytest.raises(UserError, match=r"no images .* in this folder; its folders are 'mine': name one"):
        load_class_folder(root, config)
    with pytest.raises(UserError, match="no such folder; expected a folder with the images of one class"):
        load_class_folder(root / "missing", config)
