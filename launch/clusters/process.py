"""Other programs, run to their end with their output kept."""

from __future__ import annotations

import subprocess

from metagen.errors import UserError


def captured(words: list[str], missing: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """What a program said, and its exit status, which is the caller's to judge.

    Raises ``UserError`` with ``missing`` if there is no such program, ``TimeoutExpired`` after ``timeout`` seconds.
    """
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise UserError(missing) from None
