"""Nested values of plain types: from YAML, to YAML, read and set by ``key.path``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metagen.errors import UserError


def to_yaml(values: Mapping[str, Any]) -> str:
    """``values`` as YAML, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line."""


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, (list, dict)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


_Dumper.add_representer(list, _represent_list)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ``UserError`` naming the line where it cannot be read."""
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def parse_yaml(text: bytes, path: str) -> dict[str, Any]:
    """As ``read_yaml``, of bytes that came from ``path``."""
    try:
        values = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, such as 'seed: 0'")
    try:  # what JSON cannot hold either, such as a date, is read as the text it was written as
        plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a config ({error}): use plain keys and values, such as 'seed: 0'") from None
    return plain


def strict_json(values: Any, indent: int | None = None) -> str:
    """``values`` as JSON that every program reads: an infinity or a NaN, which JSON does not have, is ``null``."""
    try:
        return json.dumps(values, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_with_nulls(json.loads(json.dumps(values))), indent=indent, allow_nan=False)


def _with_nulls(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _with_nulls(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_nulls(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """``values`` with ``key.path=value`` assignments; a value is read as YAML, an integer key indexes a list."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"--set {assignment}: write key=value, such as --set seed=1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from None
        put(result, path, value, f"--set {assignment}")
    return result


def put(values: dict[str, Any], path: str, value: Any, told: str) -> None:
    """Set ``key.path`` of nested ``values``; an integer key indexes a list. A ``UserError`` begins with ``told``."""
    keys = path.split(".")
    node: Any = values
    for i, key in enumerate(keys):
        last = i + 1 == len(keys)
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise UserError(f"{told}: '{key}' is not an index below {len(node)}")
            if last:
                node[int(key)] = value
            node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                node = node.setdefault(key, {})
        else:
            raise UserError(f"{told}: '{'.'.join(keys[:i])}' has no keys of its own")


def get(values: Any, path: str) -> Any:
    """The value at ``key.path`` of nested ``values``; None where there is none."""
    for key in path.split("."):
        if isinstance(values, list):
            values = values[int(key)] if key.isdigit() and int(key) < len(values) else None
        else:
            values = values.get(key) if isinstance(values, dict) else None
    return values
