"""Images from an ``.npz`` file.

Keys: ``images`` uint8 (N, H, W) or (N, H, W, 1 or 3); ``labels`` integers (N,); ``names`` text (C,); optional
``split`` (C,) with 0 train, 1 valid, 2 test; optional ``domain`` text (C,).
"""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metagen.errors import UserError
from metagen.tasks.config import DataConfig
from metagen.tasks.imageset import SPLITS, Images, ImageSet, check_names, offsets_of, split_by_hash
from metagen.tasks.pixels import fit_all
from metagen.wording import some

Array = NDArray[Any]
BY_HASH = "split by a hash of each class name: about 80% train, 10% valid, 10% test"


def npz(config: DataConfig) -> ImageSet:
    """Read ``config.path``; raises ``UserError`` with the fix for whatever is wrong with the file."""
    path = Path(config.path or "").expanduser()
    arrays = read_arrays(path, required=("images", "labels", "names"), optional=("split", "domain"))
    images = check_images(path, arrays["images"])
    names = check_text(path, "names", arrays["names"], count=None)
    check_names(names, f"{path}: ")
    labels = _check_labels(path, arrays["labels"], len(images), len(names))
    domains = check_text(path, "domain", arrays["domain"], len(names)) if "domain" in arrays else [""] * len(names)
    if "split" in arrays:
        split, origin = check_split(path, arrays["split"], len(names)), f"split given by the file {path.name}"
    else:
        split, origin = split_by_hash(names), BY_HASH
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(names))
    empty = [names[index] for index in np.flatnonzero(counts == 0)]
    return ImageSet(
        name=path.stem,
        images=fit_all(images[order], config.image_size, config.channels),
        offsets=offsets_of(counts),
        classes=tuple(names),
        domains=tuple(domains),
        split=split,
        split_origin=origin,
        notes=(f"classes without images ({len(empty)}): {some(empty)}",) if empty else (),
    )


def seen_from(path: Path) -> str:
    """Where a relative path was looked for: a run keeps it as it was given, wherever a later command is started."""
    return "" if path.is_absolute() else f" (seen from {str(Path.cwd())!r})"


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Array]:
    """The named arrays of an ``.npz``, never unpickled; raises ``UserError`` with the fix."""
    if not path.is_file():
        wrong = "is not a file" if path.exists() else f"no such file{seen_from(path)}"
        raise UserError(f"{path}: {wrong}; set path to an .npz file")
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: not an .npz file, or cut short; write it with numpy.savez")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = sorted(set(required) - set(file.files))
            if len(missing) == len(required) and any("/" in name for name in file.files):
                raise UserError(f"{path}: a zip of folders, not an .npz: unpack it and give the folder of its classes")
            if missing:
                raise UserError(f"{path}: no key {some(missing)}; it has {some(file.files)}; it needs {some(required)}")
            _check_size(path, file)
            return {key: _array(path, key, file) for key in (*required, *optional) if key in file.files}
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory") from None
    except _BROKEN as error:
        raise UserError(f"{path}: damaged ({str(error)[:100]}); write it again with numpy.savez") from None


_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RuntimeError,
    OverflowError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    pickle.UnpicklingError,
)
"""What numpy and zipfile raise on bytes that are not an ``.npz``. No unpickling is ever asked for:
``UnpicklingError`` is what ``allow_pickle=False`` itself can raise."""


def _check_size(path: Path, file: Any) -> None:
    """Raise ``UserError`` if the file unpacks to more than half of the memory: a few bytes can claim much."""
    unpacked = sum(member.file_size for member in file.zip.infolist())
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if unpacked > most:
        raise UserError(
            f"{path}: unpacks to {unpacked / 2**30:.1f} GiB, more than half of this machine's memory: split it, or "
            "save fewer images"
        )


def _array(path: Path, key: str, file: Any) -> Array:
    try:
        array = file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise UserError(
            f"{path}: {key} is an object array, which only unpickling could read, and metagen never unpickles; "
            "save it as a plain array of numbers or text"
        ) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {key} is not an array; write the file with numpy.savez")
    return array


def check_images(path: Path, images: Array) -> Images:
    """uint8 (N, H, W) or (N, H, W, 1 or 3), with at least one pixel; raises ``UserError``."""
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images are {images.dtype}; save them as uint8, 0 to 255")
    if images.ndim not in (3, 4):
        raise UserError(f"{path}: images have shape {images.shape}; it must be (N, H, W) or (N, H, W, 1 or 3)")
    if images.size == 0:
        missing = "has no images" if not len(images) else "has images without pixels"
        raise UserError(f"{path}: {missing} (their shape is {images.shape}); save some of each class")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        channels_first = "; move the channels last: images.transpose(0, 2, 3, 1)" if images.shape[1] in (1, 3) else ""
        raise UserError(f"{path}: images have shape {images.shape}; the last axis must be 1 or 3{channels_first}")
    return images


def check_text(path: Path, key: str, array: Array, count: int | None) -> list[str]:
    """A list of ``count`` texts (any number above 0 if ``None``); raises ``UserError``."""
    if array.dtype.kind != "U" or array.ndim != 1:
        raise UserError(f"{path}: {key} is {array.dtype} {array.shape}; it must be text, one a class: np.array([...])")
    if not len(array) or (count is not None and len(array) != count):
        raise UserError(f"{path}: {key} has {len(array)} entries; it must have one for each of the {count or ''} names")
    return [str(text) for text in array]


def check_split(path: Path, array: Array, count: int) -> NDArray[np.uint8]:
    """Split codes uint8 [count]; raises ``UserError``."""
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise UserError(f"{path}: split is {array.dtype} {array.shape}; it must be {count} integers, one a class")
    if array.min() < 0 or array.max() >= len(SPLITS):
        raise UserError(f"{path}: split has {array.min()}..{array.max()}; use 0 for train, 1 for valid, 2 for test")
    return array.astype(np.uint8)


def _check_labels(path: Path, labels: Array, images: int, classes: int) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape != (images,):
        raise UserError(f"{path}: labels are {labels.dtype} {labels.shape}; save {images} integers, one an image")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, but there are {classes} names: "
            f"they must lie in 0..{classes - 1}"
        )
    return labels.astype(np.int64)
