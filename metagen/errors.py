"""What the user can fix is a ``UserError``: one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input. The command line prints its message and exits with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'steps'?`` or, where nothing is near, the known words."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(known)}"
