"""How a name in a config finds its class: an explicit table, or ``package.module:Class`` for a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from metagen.errors import UserError, nearest
from metagen.strict import Strict


def find(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry called ``name``; raises ``UserError`` with the nearest known name, or why an import failed."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise UserError(f"unknown {kind} '{name}'{nearest(name, table)}, or give your own as package.module:Class")
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{kind} '{name}' cannot be imported ({error}): is its folder on PYTHONPATH?") from error


def options_of(kind: str, entry: Any, values: Mapping[str, Any]) -> Any:
    """Validate ``values`` with the entry's own ``Options``; an entry without takes none."""
    options: type[Strict] | None = getattr(entry, "Options", None)
    if options is None:
        if values:
            raise UserError(f"{kind} {entry.__name__} takes no options, got {', '.join(values)}")
        return None
    try:
        return options.parse(values)
    except UserError as error:
        raise UserError(f"{kind} options: {error}") from None
