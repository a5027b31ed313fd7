"""Files that commands write their results to: looked at before the work, written whole or not at all."""

from __future__ import annotations

import io
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from metagen.errors import UserError
from metagen.values import strict_json

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
"""How a picture's name may end, and what is then written."""


def check_writable(target: Path, option: str) -> None:
    """Raise ``UserError`` naming the command's ``option`` if ``target`` could not be written: before hours of work,
    not after. Nothing is left there, no folder either."""
    try:
        if target.is_dir():
            raise UserError(f"{target}: is a folder: name a file with {option}")
        there = next(folder for folder in target.absolute().parents if folder.exists())
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _refused(target, error, option) from None


def check_picture(target: Path, option: str) -> None:
    """As ``check_writable``, for a picture: its name must end as one does."""
    if target.suffix.lower() not in PICTURES:
        raise UserError(f"{target}: no picture has a name that ends so: choose a .png with {option}")
    check_writable(target, option)


def write_picture(picture: Image.Image, target: Path, option: str) -> None:
    """Save a picture atomically; raises ``UserError`` naming the command's ``option`` if it cannot be written."""
    data = io.BytesIO()
    picture.save(data, format=PICTURES[target.suffix.lower()])
    _write(target, data.getvalue(), option)


def write_json(target: Path, values: dict[str, Any]) -> None:
    """Write figures atomically, what is not finite as ``null``; raises ``UserError`` if the file cannot be written."""
    write_text(target, strict_json(values, indent=1), "--json")


def write_text(target: Path, text: str, option: str) -> None:
    """Write a file atomically; raises ``UserError`` naming the command's ``option`` if it cannot be written."""
    _write(target, text.encode(), option)


def _write(target: Path, data: bytes, option: str) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _refused(target, error, option) from None


def _refused(target: Path, error: OSError, option: str) -> UserError:
    return UserError(f"{target}: cannot be written ({error.strerror or error}): choose another with {option}")
