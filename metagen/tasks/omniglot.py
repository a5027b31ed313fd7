"""Omniglot: 1,623 characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov and Tenenbaum, Science 2015).

It is not shipped: it is read from ``config.path``, or downloaded from its authors' repository, checked and cached.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metagen.errors import UserError
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import SPLITS, Images, ImageSet, offsets_of, ranked_by_hash
from metagen.tasks.npz import check_images, check_text, read_arrays
from metagen.tasks.pixels import CorruptImage, decode, fit_all

BASE_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
"""md5 of each archive, as torchvision publishes them; background first, then evaluation."""
ORIGIN = (
    "Omniglot's own split: evaluation alphabets are test; of the background alphabets a fifth, "
    "chosen by a hash of their names, is valid and the rest is train"
)
HELP = "set path to a local Omniglot .npz or to a folder that holds " + " and ".join(ARCHIVES)
MEMBER = re.compile(r"images_(?:background|evaluation)/([^/]+)/(character\d+)/([^/]+)\.png")
LARGEST_ARCHIVE = 64_000_000
LARGEST_MEMBER = 100_000
TIMEOUT = 60.0
"""Seconds without an answer."""


class _Drawings(NamedTuple):
    images: Images
    """uint8 [C, drawings, H, W], ink 255 on 0."""
    names: list[str]
    """'alphabet/character', one a class."""
    evaluation: NDArray[np.bool_]
    """Whether each class is of an evaluation alphabet."""


def omniglot(config: DataConfig) -> ImageSet:
    """Omniglot with its alphabets as domains; raises ``UserError`` if it can be neither read nor downloaded.

    ``config.path`` may be an ``.npz`` (``images`` uint8 (C, 20, H, W), ink 255; ``names`` 'alphabet/character';
    ``split`` 0 background, 1 evaluation) or a folder with the two original archives. Without it the archives are
    downloaded into ``$XDG_CACHE_HOME/metagen`` (by default ``~/.cache/metagen``), once.
    """
    path = Path(config.path).expanduser() if config.path is not None else None
    if path is None:
        drawings = _cached(config.image_size)
    elif path.is_dir():
        drawings = _from_archives(path, config.image_size)
    else:
        drawings = _from_npz(path)
    alphabets = [name.split("/")[0] for name in drawings.names]
    classes, each, height, width = drawings.images.shape
    return ImageSet(
        name="omniglot",
        images=fit_all(drawings.images.reshape(classes * each, height, width), config.image_size, config.channels),
        offsets=offsets_of([each] * classes),
        classes=tuple(drawings.names),
        domains=tuple(alphabets),
        split=_split(alphabets, drawings.evaluation),
        split_origin=ORIGIN,
    )


def _split(alphabets: list[str], evaluation: NDArray[np.bool_]) -> NDArray[np.uint8]:
    background = {alphabet for alphabet, tested in zip(alphabets, evaluation, strict=True) if not tested}
    valid = set(ranked_by_hash(background)[: len(background) // 5])
    codes = [SPLITS["valid"] if alphabet in valid else SPLITS["train"] for alphabet in alphabets]
    return np.where(evaluation, SPLITS["test"], codes).astype(np.uint8)


def _from_npz(path: Path) -> _Drawings:
    arrays = read_arrays(path, required=("images", "names", "split"))
    names = check_text(path, "names", arrays["names"], count=None)
    images, split = arrays["images"], arrays["split"]
    if images.ndim != 4 or len(images) != len(names):
        raise UserError(f"{path}: images have shape {images.shape}; it must be ({len(names)} classes, drawings, H, W)")
    check_images(path, images.reshape(-1, *images.shape[2:]))
    if split.dtype.kind not in "iu" or split.shape != (len(names),) or not np.isin(split, (0, 1)).all():
        raise UserError(f"{path}: split must have one integer a class: 0 background, 1 evaluation")
    unnamed = [name for name in names if "/" not in name]
    if unnamed:
        raise UserError(f"{path}: names must be 'alphabet/character', not {unnamed[0]!r}")
    return _Drawings(images, names, split == 1)


def _cached(size: int) -> _Drawings:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metagen" / "omniglot"
    made = cache / f"omniglot{size}.npz"
    if made.exists():
        try:
            return _from_npz(made)
        except UserError:
            pass  # damaged: made again below
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for name, md5 in ARCHIVES.items():
            if not (cache / name).is_file() or _md5(cache / name) != md5:
                _replace(cache / name, _download(BASE_URL + name, md5))
        drawings = _from_archives(cache, size)
        names, split = np.array(drawings.names), drawings.evaluation.astype(np.uint8)
        packed = io.BytesIO()
        np.savez_compressed(packed, images=drawings.images, names=names, split=split)
        _replace(made, packed.getvalue())
    except OSError as error:
        raise UserError(f"Omniglot cannot be cached in {cache} ({error}); set XDG_CACHE_HOME, or {HELP}") from None
    return drawings


def _download(url: str, md5: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read(LARGEST_ARCHIVE + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise UserError(f"Omniglot cannot be downloaded from {url} ({error}); {HELP}") from None
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(f"{url}: md5 {found}, expected {md5}: cut short or altered; try again, or {HELP}")
    return bytes(data)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also when several workers do it at once."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name) as own:
        (Path(own) / path.name).write_bytes(data)
        os.replace(Path(own) / path.name, path)


def _from_archives(folder: Path, size: int) -> _Drawings:
    """Decode both archives, box-filtered from 105x105 to ``size`` and inverted to ink 255."""
    characters: dict[str, list[tuple[str, Images]]] = {}
    evaluation: dict[str, bool] = {}
    for (archive, md5), tested in zip(ARCHIVES.items(), (False, True), strict=True):
        path = folder / archive
        if not path.is_file():
            raise UserError(f"{path}: no such file; {HELP}")
        if _md5(path) != md5:
            raise UserError(f"{path}: wrong md5 (expected {md5}): cut short or altered; download it again")
        for name, file, data in _members(path):
            characters.setdefault(name, []).append((file, _ink(data, size, f"{path}:{file}")))
            evaluation[name] = tested
    names = sorted(characters, key=lambda name: (evaluation[name], name))
    counts = {len(drawings) for drawings in characters.values()}
    if len(counts) != 1:
        raise UserError(f"{folder}: Omniglot's characters have {sorted(counts)} drawings; all must have as many")
    drawn = [[image for _, image in sorted(characters[name], key=lambda item: item[0])] for name in names]
    return _Drawings(np.array(drawn, dtype=np.uint8), names, np.array([evaluation[name] for name in names]))


def _members(path: Path) -> list[tuple[str, str, bytes]]:
    """('alphabet/character', file name, PNG bytes) of every drawing; nothing is extracted to a path."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                match = MEMBER.fullmatch(item.filename)
                if match is None:
                    continue  # folders, and what macOS adds
                with archive.open(item) as stream:
                    data = stream.read(LARGEST_MEMBER + 1)
                if len(data) > LARGEST_MEMBER:
                    raise UserError(f"{path}: {item.filename!r} is larger than {LARGEST_MEMBER} bytes")
                found.append((f"{match[1]}/{match[2]}", match[3], data))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{path}: damaged archive ({error}); download it again") from None
    return found


def _ink(data: bytes, size: int, name: str) -> Images:
    try:
        drawing = decode(io.BytesIO(data), name).convert("L")
    except CorruptImage as error:
        raise UserError(str(error)) from None
    shrinks = size <= min(drawing.size)  # a box filter would enlarge to blocks
    filtered = drawing.resize((size, size), Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS)
    return np.invert(np.asarray(filtered, dtype=np.uint8))
