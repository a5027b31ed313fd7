"""Numbers and names as a line of output says them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, one: str, more: str = "") -> str:
    """``1 step``, ``2 steps``; ``more`` where an 's' does not make the plural."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def some(words: Sequence[str], most: int = 5) -> str:
    """``'a', 'b' and 7 more``: words for one line, quoted so that odd characters show."""
    shown = ", ".join(repr(word) for word in words[:most])
    return f"{shown} and {len(words) - most} more" if len(words) > most else shown
