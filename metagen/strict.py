"""The base of every config: frozen, complete, and strict about names and types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from metagen.errors import UserError, nearest

Scalar = str | int | float | bool | None


class Strict(BaseModel):
    """A frozen value; an unknown key or a wrong type is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``; raises ``UserError`` with one line a mistake."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError("; ".join(_complaints(cls, error))) from None


NEEDED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "missing": "a value",
    "dict_type": "a mapping, such as {{key: value}},",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "too_short": "{field_type} of at least {min_length}",
    "too_long": "{field_type} of at most {max_length}",
}
"""What each of pydantic's complaints asks for, in the words of YAML; others keep pydantic's own."""
KINDS = {"Tuple": "a list", "List": "a list", "Dictionary": "a mapping"}
BRANCH = re.compile(r"(constrained-)?(int|float|str|bool)|literal\[.*\]")
"""How pydantic names the members of a union, in place of a key."""


def _complaints(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line a mistake: what a union's members say of the same value is one."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for item in error.errors():
        path = tuple(map(str, item["loc"]))
        groups.setdefault(path[:-1] if path and BRANCH.fullmatch(path[-1]) else path, []).append(item)
    return [_explain(model, list(path), items) for path, items in groups.items()]


def _explain(model: type[BaseModel], path: list[str], items: Sequence[Any]) -> str:
    key, item = ".".join(path), items[0]
    if item["type"] == "extra_forbidden":
        known, elsewhere = _fields_at(model, path[:-1]), _elsewhere(model, path)
        hint = f"; did you mean {elsewhere}?" if elsewhere else nearest(path[-1], known) if known else ""
        return f"{key}: unknown key{hint}"
    got = item.get("input")
    if item["type"] == "tuple_type" and isinstance(got, dict) and got and all(str(part).isdigit() for part in got):
        example = _list_of(model, path, next(iter(got.values())))
        return f"{key}: there is no list with entries of these numbers: write it whole, such as '{key}={example}'"
    needed = list(dict.fromkeys(_needed(model, path, one) for one in items))
    message = f"{', or '.join(needed)} is needed" if all(needed) else item["msg"].removeprefix("Value error, ")
    if (isinstance(got, Scalar) or got in ([], {})) and item["type"] not in ("value_error", "missing"):
        message = f"{message[0].lower()}{message[1:]} (got {got!r})"
    return f"{key}: {message}" if key else message


def _needed(model: type[BaseModel], path: list[str], item: Any) -> str:
    """What would do in place of a value; nothing where pydantic's words are as good."""
    kind, context = item["type"], dict(item.get("ctx", {}))
    if kind in ("tuple_type", "list_type"):
        return f"a list, such as {_list_of(model, path, item['input'])},"
    if kind == "model_type":
        return f"a mapping, such as {_mapping_of(_models_at(model, path))},"
    if kind == "too_short" and context.get("field_type") in ("Tuple", "List"):
        return f"a list of at least {context['min_length']}, such as {_list_of(model, path, None)},"
    context["field_type"] = KINDS.get(context.get("field_type", ""), "a value")
    return NEEDED.get(kind, "").format(**context)


def _list_of(model: type[BaseModel], path: list[str], got: Any) -> str:
    """An example of a list that could stand at ``path``, of what was given where that can be an entry."""
    if models := _models_at(model, path):
        return f"[{_mapping_of(models)}]"
    if isinstance(got, str | int | float):
        return f"[{got}]"
    fields = [current.model_fields.get(path[-1]) for current in _models_at(model, path[:-1], nearest=True)]
    defaults = [field.default for field in fields if field is not None and isinstance(field.default, tuple)]
    return str(list(defaults[0])) if defaults and defaults[0] else "[...]"


def _mapping_of(models: Sequence[type[BaseModel]]) -> str:
    """An example of the keys that one of ``models`` has."""
    for model in models:
        for name, field in model.model_fields.items():
            plain = isinstance(field.default, str | int | float)
            return f"{{{name}: {field.default if plain else '...'}}}"
    return "{key: value}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the model that a path of keys leads to (union and tuple members are searched)."""
    return sorted({name for current in _models_at(model, path, nearest=True) for name in current.model_fields})


def _elsewhere(model: type[BaseModel], path: list[str]) -> str:
    """Where a key of exactly this name does belong: deeper down if it can, else anywhere; empty if nowhere."""
    for home in (path[:-1], []):
        found = [".".join([*home, *rest]) for at in _models_at(model, home) for rest in _places(at, path[-1])]
        if 0 < len(found) <= 3:
            return " or ".join(map(repr, found))
    return ""


def _places(annotation: Any, name: str) -> Iterator[list[str]]:
    """The paths within a value of type ``annotation`` that end in a key ``name``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for key, field in annotation.model_fields.items():
            if key == name:
                yield [key]
            yield from ([key, *rest] for rest in _places(field.annotation, name))
        return
    if get_origin(annotation) is dict:
        return  # its keys are the user's own
    index = ["0"] if get_origin(annotation) in (tuple, list) else []
    for inner in get_args(annotation):
        yield from ([*index, *rest] for rest in _places(inner, name))


def _models_at(model: type[BaseModel], path: list[str], nearest: bool = False) -> list[type[BaseModel]]:
    """The models that the value at ``path`` can be or hold; with ``nearest``, above what holds none."""
    models = [model]
    for part in path:
        if part.isdigit() or BRANCH.fullmatch(part):
            continue  # indices and union tags are not fields
        fields = [current.model_fields[part] for current in models if part in current.model_fields]
        following = [found for field in fields for found in _models_in(field.annotation)]
        if fields:  # else a key of a mapping that holds them
            models = following or (models if nearest else [])
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
