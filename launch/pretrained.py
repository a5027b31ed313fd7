"""The checkpoint that comes with the package: ``pretrained``, wherever a command takes a checkpoint."""

from __future__ import annotations

from pathlib import Path

NAME = "pretrained"
FOLDER = Path(__file__).parent / "weights" / NAME
RESULTS = Path(f"{NAME}-results")
"""Where what commands write beside a checkpoint goes instead: the package is no place for it."""


def is_packaged(value: object) -> bool:
    """Whether a word stands for the packaged checkpoint. A file or folder of that name comes first."""
    return str(value) == NAME and not Path(NAME).exists()
