from __future__ import annotations

import functools
import hashlib
import http.server
import importlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metagen.errors import UserError
from metagen.tasks import DataConfig, ImageSet, load

LOCAL = Path(os.environ.get("METAGEN_OMNIGLOT", "no such file"))
"""The whole set at 28x28, where there is one; a small one of its form is made otherwise."""
MODULE = importlib.import_module("metagen.tasks.omniglot")  # the package has a function of that name
BACKGROUND = [f"Alphabet{letter}" for letter in "ABCDEFGHIJ"]


def _load(path: Path | None = None, **values: Any) -> ImageSet:
    return load(DataConfig(source="omniglot", path=path and str(path), **values))


def _npz(path: Path, **changes: Any) -> Path:
    names = [f"{alphabet}/character01" for alphabet in [*BACKGROUND, "Tested"]]
    images = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 28, 28), np.uint8)
    arrays = {"images": images, "names": np.array(names), "split": np.array([0] * 10 + [1])} | changes
    np.savez(path / "small.npz", **arrays)
    return path / "small.npz"


def _drawing(stroke: int) -> bytes:
    """Like Omniglot's: 105x105, one bit, black ink on white."""
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (stroke, 0, stroke + 15, 105))
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def _archives(folder: Path, extra: dict[str, bytes] | None = None) -> dict[str, str]:
    """Two tiny archives in Omniglot's layout, and their md5s."""
    checksums = {}
    for archive, alphabets in (("images_background", BACKGROUND), ("images_evaluation", ["Tested"])):
        path = folder / f"{archive}.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{archive}/", "")
            file.writestr(f"__MACOSX/{archive}/._x.png", b"x")
            for alphabet in alphabets:
                for index in (1, 0):
                    file.writestr(f"{archive}/{alphabet}/character01/0001_0{index}.png", _drawing(45 * index))
            for name, data in (extra or {}).items() if archive == "images_background" else ():
                file.writestr(name, data)
        checksums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    return checksums


@pytest.fixture
def requests() -> list[str]:
    """The paths that the server was asked for."""
    return []


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[str], serving: Any) -> Iterator[Path]:
    """The tiny archives behind a real server; the cache is in ``tmp_path/cache``."""
    home = tmp_path / "served"
    home.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            requests.append(self.path)

    monkeypatch.setattr(MODULE, "ARCHIVES", _archives(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(functools.partial(Handler, directory=home)) as url:
        monkeypatch.setattr(MODULE, "BASE_URL", f"{url}/")
        yield home


def test_a_local_file_is_split_by_alphabet(tmp_path: Path) -> None:
    images = _load(LOCAL if LOCAL.is_file() else _npz(tmp_path))
    by_split = [{images.domains[index] for index in images.members(split)} for split in ("train", "valid", "test")]
    background = len(by_split[0]) + len(by_split[1])
    assert len(set.union(*by_split)) == background + len(by_split[2])
    assert len(by_split[1]) == background // 5
    assert "chosen by a hash" in images.split_origin
    assert images.too_few("all", 20) == []
    if LOCAL.is_file():
        assert [len(names) for names in by_split] == [24, 6, 20]
        assert images.images.shape == (32460, 1, 28, 28)
        assert "Sanskrit" in by_split[1]  # pinned: the choice must not drift


def test_a_local_file_is_brought_into_the_form_of_the_config(tmp_path: Path) -> None:
    images = _load(_npz(tmp_path), image_size=14, channels=3)
    assert images.images.shape == (220, 3, 14, 14)
    assert (images.class_images(3) == 3).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": np.array([0] * 10 + [2])}, "0 background, 1 evaluation"),
        ({"split": np.zeros(3, int)}, "one integer a class"),
        ({"images": np.zeros((11, 28, 28), np.uint8)}, r"must be \(11 classes, drawings, H, W\)"),
        ({"images": np.zeros((11, 20, 28, 28))}, "save them as uint8"),
        ({"names": np.array([f"character{index}" for index in range(11)])}, "must be 'alphabet/character'"),
    ],
)
def test_a_wrong_local_file_says_the_fix(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _load(_npz(tmp_path, **changes))


def test_a_download_is_checked_decoded_and_cached(served: Path, requests: list[str], tmp_path: Path) -> None:
    images = _load()
    assert images.images.shape == (22, 1, 28, 28)
    assert images.classes == tuple(f"{name}/character01" for name in [*BACKGROUND, "Tested"])
    assert images.split.tolist().count(1) == 2
    assert images.split[-1] == 2
    first, second = images.class_images(0)[:, 0]
    assert (first[:, :4] == 255).all()  # the stroke is ink 255, and files are in order
    assert (first[:, 4:] == 0).all()
    assert (second[:, 12:16] == 255).all()
    assert (second[:, :12] == 0).all()
    assert len(requests) == 2
    cache = tmp_path / "cache" / "metagen" / "omniglot"
    assert sorted(file.name for file in cache.iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
        "omniglot28.npz",
    ]
    assert np.array_equal(_load().images, images.images)
    assert _load(image_size=105).images.shape == (22, 1, 105, 105)
    assert np.array_equal(_load(cache / "omniglot28.npz").images, images.images)
    assert len(requests) == 2


def test_a_damaged_cache_is_made_again(served: Path, requests: list[str], tmp_path: Path) -> None:
    images = _load()
    cache = tmp_path / "cache" / "metagen" / "omniglot"
    (cache / "omniglot28.npz").write_bytes(b"PK cut short")
    (cache / "images_background.zip").write_bytes(b"PK cut short")
    assert np.array_equal(_load().images, images.images)
    assert len(requests) == 3


def test_an_altered_download_is_refused_and_not_cached(served: Path, tmp_path: Path) -> None:
    with (served / "images_background.zip").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(UserError, match=r"expected .*cut short or altered; .*set path to a local Omniglot"):
        _load()
    assert list((tmp_path / "cache" / "metagen" / "omniglot").iterdir()) == []


def test_without_network_the_error_says_to_set_path(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (served / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match=r"images_evaluation\.zip \(HTTP Error 404.*set path to a local Omniglot"):
        _load()
    monkeypatch.setattr(MODULE, "BASE_URL", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"cannot be downloaded .*set path to a local Omniglot"):
        _load()


def test_a_cache_that_cannot_be_written_says_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be cached .*set XDG_CACHE_HOME"):
        _load()


def test_the_archives_are_read_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        _load(tmp_path)
    monkeypatch.setattr(MODULE, "ARCHIVES", _archives(tmp_path))
    assert len(_load(tmp_path).images) == 22
    (tmp_path / "images_evaluation.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="wrong md5"):
        _load(tmp_path)


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "images_background/../../x/character01/1.png"])
def test_hostile_members_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.setattr(MODULE, "ARCHIVES", _archives(below, {name: _drawing(0)}))
    assert len(_load(below).images) == 22
    assert {file.name for file in tmp_path.rglob("*.*")} == {"images_background.zip", "images_evaluation.zip"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(200_000), "larger than 100000 bytes"),
        (b"not a png", "not a readable"),
        (_drawing(0), r"have \[1, 2\] drawings"),
    ],
    ids=["large", "corrupt", "uneven"],
)
def test_odd_members_are_user_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    extra = {"images_background/New/character01/1.png": data}
    monkeypatch.setattr(MODULE, "ARCHIVES", _archives(tmp_path, extra))
    with pytest.raises(UserError, match=message):
        _load(tmp_path)
