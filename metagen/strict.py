"""The base of every config: frozen, complete, and strict about names and types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from metagen.errors import UserError, nearest


class Strict(BaseModel):
    """A frozen value; an unknown key or a wrong type is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``; raises ``UserError`` with one line a mistake."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError("; ".join(_explain(cls, item) for item in error.errors())) from None


def _explain(model: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"{key}: unknown key{nearest(path[-1], known)}" if known else f"{key}: unknown key"
    message = item["msg"].removeprefix("Value error, ")
    got = item.get("input")
    if isinstance(got, (str, int, float, bool, type(None))) and item["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]} (got {got!r})"
    return f"{key}: {message}" if key else message


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the model that a path of keys leads to (union and tuple members are searched)."""
    models = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        for current in models:
            field = current.model_fields.get(part)
            if field is not None:
                following += _models_in(field.annotation)
        models = following or models  # indices and union tags are not fields
    return sorted({name for current in models for name in current.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
