"""How a name in a config finds its class: an explicit table, or ``package.module:Class`` for a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from inspect import isroutine
from typing import Any

from metagen.errors import UserError, nearest
from metagen.strict import Strict

MEMBERS = {
    "family": ("channels", "image_size", "metric", "build", "draw", "losses", "scores", "sample"),
    "policy": ("initial", "wants_halves", "step", "hypergradient", "describe"),
    "estimator": ("estimate",),
}
"""What a part of each kind must have, whoever wrote it."""


def find(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry called ``name``; raises ``UserError`` with the nearest known name, or why an import failed."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise UserError(f"unknown {kind} '{name}'{nearest(name, table)}, or give your own as package.module:Class")
    return imported(kind, name)


def imported(kind: str, name: str) -> Any:
    """The callable that 'package.module:Class' names; raises ``UserError`` if there is none."""
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"{kind}: {name!r} is not of the form 'package.module:Class'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists and fails to import something else: its author needs the traceback
        raise UserError(
            f"{kind}: {name!r} cannot be imported, no module {error.name!r}: install it or set PYTHONPATH"
        ) from None
    found = getattr(module, attribute, None)
    if found is None:
        own = [word for word, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise UserError(f"{kind}: {module_name} has no {attribute!r}{nearest(attribute, own)}")
    if not callable(found):
        raise UserError(f"{kind}: {name!r} is not callable: name a class or a function")
    return found


def check_whole(kind: str, name: str, part: object) -> None:
    """Raise ``UserError`` if a class of a user's own, or what it made, lacks members of its kind.

    Before a run, which may come to need them after hours. A function that makes the part is taken at its word.
    """
    missing = [member for member in MEMBERS[kind] if not hasattr(part, member)]
    if missing and not isroutine(part):
        raise UserError(f"{kind} {name!r} lacks {', '.join(missing)}: see docs/extending.md")


def options_of(kind: str, entry: Any, values: Mapping[str, Any]) -> Any:
    """Validate ``values`` with the own ``Options`` of an entry, which errors call ``kind``; one without takes none."""
    options: type[Strict] | None = getattr(entry, "Options", None)
    if options is None:
        if values:
            raise UserError(f"{kind} takes no options, got {', '.join(values)}")
        return None
    try:
        return options.parse(values)
    except UserError as error:
        raise UserError(f"{kind} options: {error}") from None
