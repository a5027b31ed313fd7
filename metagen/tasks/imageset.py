"""``ImageSet``: the images of all classes in one array, and which classes belong to which split."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metagen.errors import UserError, nearest
from metagen.wording import some

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]

SPLITS: dict[str, int] = {"train": 0, "valid": 1, "test": 2}
LONGEST_NAME = 255


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images sorted by class. Its arrays are made read-only, because everything shares them.

    Raises ``ValueError`` if the parts do not fit together and ``UserError`` for class names that cannot be used.
    """

    name: str
    images: Images
    """uint8 [N, C, H, W], C-contiguous, sorted by class; may be a memmap."""
    offsets: Indices
    """int64 [classes + 1]: the images of class ``c`` are ``images[offsets[c]:offsets[c + 1]]``."""
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    """One a class, such as 'icon' or 'glyph'; '' where there is none."""
    split: NDArray[np.uint8]
    """uint8 [classes]: 0 train, 1 valid, 2 test. Classes are split, never the images of one class."""
    split_origin: str
    """A sentence that says where the split comes from."""
    notes: tuple[str, ...] = ()
    """Lines that report what was left out or changed."""
    inverted: bool = False
    """Whether all images were inverted as they were loaded."""
    weights: NDArray[np.float64] | None = None
    """float64 [classes]: how often each is drawn for training, beside the others; None for all alike."""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or not self.images.flags.c_contiguous:
            raise ValueError("images must be C-contiguous uint8 [N, C, H, W]")
        if self.images.shape[1] not in (1, 3) or self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"images must be square with 1 or 3 channels, not {self.images.shape[1:]}")
        if self.offsets.shape != (count + 1,) or self.offsets.dtype != np.int64:
            raise ValueError(f"offsets must be int64 [{count + 1}], not {self.offsets.dtype} {self.offsets.shape}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.images) or np.any(np.diff(self.offsets) < 0):
            raise ValueError(f"offsets must rise from 0 to {len(self.images)}, the number of images")
        if len(self.domains) != count or self.split.shape != (count,) or self.split.dtype != np.uint8:
            raise ValueError(f"domains and split (uint8) must have one entry for each of {count} classes")
        if np.any(self.split >= len(SPLITS)):
            raise ValueError(f"split must hold {SPLITS}")
        if self.weights is not None and (self.weights.shape != (count,) or not np.all(self.weights > 0)):
            raise ValueError(f"weights must be {count} numbers above 0, one a class")
        check_names(self.classes)
        for field in ("images", "offsets", "split"):
            view = getattr(self, field).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[2])

    @property
    def counts(self) -> Indices:
        """Images a class: int64 [classes]."""
        return np.diff(self.offsets)

    def members(self, split: str, at_least: int = 1) -> Indices:
        """Indices of the classes of ``split`` that have ``at_least`` images: int64, rising.

        ``split`` is 'train', 'valid', 'test' or 'all'; anything else raises ``UserError``.
        """
        return np.flatnonzero(self._belongs(split) & (self.counts >= at_least)).astype(np.int64)

    def too_few(self, split: str, at_least: int) -> list[str]:
        """Names of the classes that ``members`` leaves out because they have fewer than ``at_least`` images."""
        return [self.classes[index] for index in np.flatnonzero(self._belongs(split) & (self.counts < at_least))]

    def check_any(self, split: str) -> None:
        """Raise ``UserError`` if no class is in ``split``."""
        if not len(self.members(split, 0)):
            raise UserError(
                f"{self.name}: no class is in split '{split}' ({self.split_origin}): add classes, or give the split by "
                "folders train/, valid/, test/"
            )

    def class_images(self, index: int) -> Images:
        """The images of one class: a read-only view, uint8 [n, C, H, W]. Raises ``IndexError``."""
        if not 0 <= index < len(self.classes):
            raise IndexError(f"class {index} of {len(self.classes)}")
        return self.images[self.offsets[index] : self.offsets[index + 1]]

    def index_of(self, name: str) -> int:
        """The index of the class called ``name``; raises ``UserError`` that suggests the nearest name."""
        if name in self.classes:
            return self.classes.index(name)
        # A set may have thousands of classes, too many for one line: only the nearest is named, or a few.
        close = difflib.get_close_matches(name, self.classes, n=1, cutoff=0.5)
        hint = nearest(name, close) if close else f"; it has {len(self.classes)}, such as {some(self.classes, 3)}"
        raise UserError(f"{self.name} has no class {name!r}{hint}")

    def _belongs(self, split: str) -> NDArray[np.bool_]:
        if split == "all":
            return np.ones(len(self.classes), dtype=np.bool_)
        if split not in SPLITS:
            raise UserError(f"split: unknown {split!r}{nearest(split, [*SPLITS, 'all'])}")
        return np.asarray(self.split == SPLITS[split])


def offsets_of(counts: Sequence[int] | NDArray[np.integer]) -> Indices:
    """Offsets int64 [classes + 1] from the images a class."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def split_by_hash(names: Iterable[str]) -> NDArray[np.uint8]:
    """Split codes, uint8 [len(names)]: about 80% train, 10% valid, 10% test, by a hash of each name alone.

    A class keeps its split whatever other classes there are and in whatever order they come. Names are
    NFC-normalised first: macOS and Linux spell the same folder name differently.
    """
    tenths = [_digest(name) % 10 for name in names]
    return np.array([max(0, tenth - 7) for tenth in tenths], dtype=np.uint8)


def _digest(name: str) -> int:
    data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def ranked_by_hash(names: Iterable[str]) -> list[str]:
    """``names`` in the order of their hashes: a fixed shuffle without a seed."""
    return sorted(names, key=lambda name: (_digest(name), name))


def check_names(names: Sequence[str], where: str = "") -> None:
    """Raise ``UserError`` unless every class name is unique and safe in a line of output and in a path.

    The message begins with ``where``, such as ``mine.npz: ``.
    """
    for name in names:
        # Names are printed to terminals and become parts of file names.
        if not name or not name.isprintable() or len(name) > LONGEST_NAME or {"", ".", ".."} & set(name.split("/")):
            raise UserError(
                f"{where}class name {name[:LONGEST_NAME]!r} cannot be used: rename it to 1-{LONGEST_NAME} printable "
                "characters without '.', '..' or nothing between slashes"
            )
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise UserError(f"{where}two classes are called {twice!r}: rename one of them")
