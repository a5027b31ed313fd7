"""Images from folders, one folder a class.

Expected layout: ``PATH/cat/1.png``, ``PATH/dog/1.jpg``; or, with the split given, ``PATH/train/cat/1.png``,
``PATH/valid/dog/1.png``, ``PATH/test/owl/1.png``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from metagen.errors import UserError
from metagen.tasks.config import DataConfig, OnCorrupt
from metagen.tasks.imageset import SPLITS, Images, ImageSet, check_names, offsets_of, split_by_hash
from metagen.tasks.npz import BY_HASH, seen_from
from metagen.tasks.pixels import CorruptImage, blank, decode, fit, in_polarity
from metagen.wording import some

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
LAYOUT = "expected PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE with valid/ and test/ beside train/"
FLAT = "expected a folder with the images of one class in it"


class _Class(NamedTuple):
    name: str
    files: list[Path]
    split: int | None


def folder(config: DataConfig) -> ImageSet:
    """Read ``config.path``; raises ``UserError`` for a wrong layout, a corrupt or an oversized image."""
    root = _root(config.path or "", LAYOUT)
    ignored: Counter[str] = Counter()
    found = _find(root, ignored)
    empty = [kind.name for kind in found if not kind.files]
    found = [kind for kind in found if kind.files]
    if not found:
        raise UserError(f"{root}: no images (PNG, JPEG, WebP, BMP) in class folders; {LAYOUT}")
    files = [file for kind in found for file in kind.files]
    images, read, notes = _told(root, files, config, ignored)
    had = set(read)
    counts = [sum(file in had for file in kind.files) for kind in found]
    empty += [kind.name for kind, count in zip(found, counts, strict=True) if not count]
    kept = [(kind, count) for kind, count in zip(found, counts, strict=True) if count]
    names = [kind.name for kind, _ in kept]
    check_names(names, f"{_shown(root)}: ")
    given = [kind.split for kind, _ in kept if kind.split is not None]
    if empty:
        notes.append(f"class folders without a readable image, left out ({len(empty)}): {some(sorted(empty))}")
    return ImageSet(
        name=root.name,
        images=images,
        offsets=offsets_of([count for _, count in kept]),
        classes=tuple(names),
        domains=("",) * len(names),
        split=np.array(given, dtype=np.uint8) if given else split_by_hash(names),
        split_origin="split given by the folders train/, valid/, test/" if given else BY_HASH,
        notes=tuple(notes),
    )


def load_images(
    paths: Sequence[Path], image_size: int, channels: Literal[1, 3], on_corrupt: OnCorrupt = "error"
) -> Images:
    """Decode image files: uint8 [n, channels, image_size, image_size], in the order of ``paths``.

    ``on_corrupt='skip'`` leaves corrupt images out (``n < len(paths)`` tells). Raises ``UserError`` otherwise,
    for a missing file, for an image above 64 megapixels, and if no image is left.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"{_shown(path)}: no such image file")
    images, skipped = _read(paths, image_size, channels, on_corrupt)
    if not len(images):
        raise UserError(f"all {len(skipped)} images are corrupt" if skipped else "no images were given")
    return images


def load_class_folder(path: str | Path, config: DataConfig) -> ImageSet:
    """One class from a flat folder of its images, as an ``ImageSet`` whose only class is in the test split.

    Size, channels, polarity and ``on_corrupt`` come from ``config``; its source and path are not read.
    Raises ``UserError`` if there are no images.
    """
    root = _root(path, FLAT)
    ignored: Counter[str] = Counter()
    folders, files = _entries(root, root, ignored)
    if not files:
        inside = f"; its folders are {some([item.name for item in folders])}: name one of them" if folders else ""
        raise UserError(f"{root}: no images (PNG, JPEG, WebP, BMP) in this folder{inside}")
    ignored["folders inside the class folder"] += len(folders)
    images, _, notes = _told(root, files, config, ignored)
    shown = ImageSet(
        name=root.name,
        images=images,
        offsets=offsets_of([len(images)]),
        classes=(root.name,),
        domains=("",),
        split=np.array([SPLITS["test"]], dtype=np.uint8),
        split_origin="one class, given to adapt to",
        notes=tuple(notes),
    )
    return in_polarity(shown, config.polarity)


def _root(path: str | Path, layout: str) -> Path:
    root = Path(path).expanduser()
    if not root.is_dir():
        missing = f"no such folder{seen_from(root)}"
        raise UserError(f"{_shown(root)}: {'is not a folder' if root.exists() else missing}; {layout}")
    return root.resolve()


def _find(root: Path, ignored: Counter[str]) -> list[_Class]:
    """The classes below ``root`` in a fixed order: by split, then by name."""
    folders, files = _entries(root, root, ignored)
    ignored["images outside class folders"] += len(files)
    inside = {item: _entries(item, root, Counter()) for item in folders}
    by_split = {item.name for item in folders} <= set(SPLITS) and any(below for below, _ in inside.values())
    if not by_split:
        return [_class(item, root, ignored, None) for item in folders]
    found: list[_Class] = []
    for item in sorted(folders, key=lambda item: SPLITS[item.name]):
        below, outside = _entries(item, root, ignored)
        ignored["images outside class folders"] += len(outside)
        found += [_class(kind, root, ignored, SPLITS[item.name]) for kind in below]
    twice = [name for name, count in Counter(kind.name for kind in found).items() if count > 1]
    if twice:
        raise UserError(
            f"{root}: classes in more than one of train/, valid/, test/: {some(twice)}; "
            "a class belongs to one split: move its images together or rename it"
        )
    return found


def _class(path: Path, root: Path, ignored: Counter[str], split: int | None) -> _Class:
    folders, files = _entries(path, root, ignored)
    ignored["folders inside class folders"] += len(folders)
    return _Class(path.name, files, split)


def _entries(path: Path, root: Path, ignored: Counter[str]) -> tuple[list[Path], list[Path]]:
    """Folders and image files in ``path``, sorted by name; the rest is counted in ``ignored``."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{_shown(path)}: cannot be listed: {error.strerror}") from None
    for entry in entries:
        item = path / entry.name
        if entry.name.startswith("."):
            ignored["hidden files and folders"] += 1
        elif entry.is_symlink() and not _stays_inside(item, root):
            ignored["links that leave the folder or lead nowhere"] += 1
        elif entry.is_dir():
            folders.append(item)
        elif item.suffix.lower() in SUFFIXES and entry.is_file():  # a named pipe would block for ever
            files.append(item)
        else:
            ignored["files that are no PNG, JPEG, WebP or BMP"] += 1
    return folders, files


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # broken, or a loop of links
        return False


def _read(files: Sequence[Path], size: int, channels: int, on_corrupt: OnCorrupt) -> tuple[Images, list[Path]]:
    """uint8 [n, channels, size, size], and the corrupt files that were skipped."""
    images = blank(len(files), channels, size)
    skipped: list[Path] = []
    for index, file in enumerate(files):
        try:
            images[index - len(skipped)] = fit(decode(file, _shown(file)), size, channels)
        except CorruptImage as error:
            if on_corrupt == "error":
                leave = "to leave such images out in training, --set data.on_corrupt=skip"
                raise UserError(f"{error}; remove it, or, {leave}") from None
            skipped.append(file)
    return images[: len(files) - len(skipped)], skipped


def _told(
    root: Path, files: Sequence[Path], config: DataConfig, ignored: Counter[str]
) -> tuple[Images, list[Path], list[str]]:
    """Images as ``_read`` gives them, the files that they are of, and what the user is told.

    Raises ``UserError`` if none is left.
    """
    images, skipped = _read(files, config.image_size, config.channels, config.on_corrupt)
    if not len(images):
        raise UserError(f"{root}: all {len(files)} images are corrupt, such as {_relative(root, skipped)}")
    lost = set(skipped)
    read = [file for file in files if file not in lost]
    notes = [f"not read: {what} ({count})" for what, count in sorted(ignored.items()) if count]
    if skipped:
        notes.append(f"corrupt images, skipped ({len(skipped)}): {_relative(root, skipped)}")
    if white := [read[i] for i in np.flatnonzero(images.min(axis=(1, 2, 3)) == 255)]:
        notes.append(
            f"images that are white all over, as white ink on a transparent ground becomes ({len(white)}): "
            f"{_relative(root, white)}"
        )
    return images, read, notes


def _relative(root: Path, files: Iterable[Path]) -> str:
    return some([str(file.relative_to(root)) for file in files])


def _shown(path: Path) -> str:
    """The path for a one-line message: odd characters escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)
