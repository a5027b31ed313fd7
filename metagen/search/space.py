"""The space of a sweep: what may be chosen, when, and which run a choice stands for.

A choice is an ``Assignment``: a value for every parameter of the space that is active. Parameters are keys of a run's
config, such as ``phases.0.outer.learning_rate``, and the structural names of ``structure.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from metagen.config import RunConfig
from metagen.errors import UserError, nearest
from metagen.search.structure import ARCHITECTURE, STRUCTURE, misfit, resolution, structured
from metagen.strict import Strict
from metagen.values import get, put

Value = Any
Assignment = dict[str, Value]
Scalar = str | int | float | bool | None
SHARED = ("data", "categories", "pool", "log", "name", "budget", "device")
"""Keys that all trials share: they have one image set in the object store, and one kind of worker."""
KINDS = ("choice", "range", "uniform", "loguniform")


class Domain(Strict):
    """The values of one parameter: exactly one of ``choice``, ``range``, ``uniform`` and ``loguniform``."""

    choice: tuple[Value, ...] | None = None
    range: tuple[int, int] | None = None
    """Whole numbers, both ends included."""
    step: int = 1
    """Between the numbers of a ``range``."""
    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    loguniform: tuple[FiniteFloat, FiniteFloat] | None = None
    when: dict[str, Value] = Field(default={})
    """Conditions that must all hold for the parameter to be there: ``{KEY: value}``, ``{KEY: [values]}`` or
    ``{KEY: {min: A, max: B}}``. KEY is a parameter above this one, a config key, or ``resolution``: the pixels that
    the finest level works at."""

    @model_validator(mode="after")
    def _one(self) -> Domain:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        for key, wanted in self.when.items():
            between = isinstance(wanted, dict) and wanted and set(wanted) <= {"min", "max"}
            if isinstance(wanted, dict) and not (between and _numbers(wanted.values())):
                raise ValueError(f"when: of '{key}': give a value, a list of values, or {{min: A, max: B}} of numbers")
        kind = given[0]
        if self.step != 1 and kind != "range":
            raise ValueError(f"step: goes with range, not with {kind}")
        if kind == "choice":
            if not self.choice or len(set(self.labels)) < len(self.labels):
                raise ValueError("choice: give values, each once")
            return self
        low, high = getattr(self, kind)
        if not low < high:
            single = f": for a single value give choice: [{low}]" if low == high else ""
            raise ValueError(f"{kind}: {low} is not below {high}{single}")
        if kind == "loguniform" and low <= 0:
            raise ValueError(f"loguniform: {low} is not above 0")
        if self.step < 1:
            raise ValueError("step: give a whole number from 1")
        return self

    @cached_property
    def labels(self) -> tuple[Scalar, ...]:
        """The choices as scalars, which other libraries want, or where they are none, or equal though of two types
        (true and 1), as their JSON."""
        texts = tuple(json.dumps(value, sort_keys=True) for value in self.choice or ())
        plain = all(isinstance(value, Scalar) for value in self.choice or ())
        return tuple(self.choice or ()) if plain and len(set(self.choice or ())) == len(set(texts)) else texts

    def labelled(self, label: Scalar) -> Value:
        """The choice that ``label`` stands for."""
        return (self.choice or ())[self.labels.index(label)]

    def label(self, value: Value) -> Scalar:
        """The inverse of ``labelled``."""
        wanted = json.dumps(value, sort_keys=True)
        known = [json.dumps(v, sort_keys=True) for v in self.choice or ()]
        return self.labels[known.index(wanted)]

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value; of numbers alone, not of a ``choice``."""
        ends = self.range or self.uniform or self.loguniform
        assert ends is not None
        return ends

    @property
    def finite(self) -> Sequence[Value] | None:
        """All values in order; None where there are infinitely many."""
        if self.range is not None:
            return range(self.range[0], self.range[1] + 1, self.step)
        return self.choice

    def draw(self, rng: np.random.Generator) -> Value:
        """One value at random."""
        if (values := self.finite) is not None:
            return values[int(rng.integers(len(values)))]
        if self.uniform is not None:
            return float(rng.uniform(*self.uniform))
        assert self.loguniform is not None
        return float(np.exp(rng.uniform(*np.log(self.loguniform))))

    def holds(self, value: Value) -> bool:
        """Whether ``value`` is one of the domain's."""
        if (values := self.finite) is not None:
            return json.dumps(value) in {json.dumps(v) for v in values}
        low, high = self.ends
        return isinstance(value, int | float) and low <= value <= high

    def meets(self, wanted: Value) -> bool:
        """Whether one of its values is as a condition wants it."""
        if self.finite is not None:
            return any(_meets(value, wanted) for value in self.finite)
        low, high = self.ends
        if isinstance(wanted, dict):
            return bool(wanted.get("min", low) <= high and wanted.get("max", high) >= low)
        return any(self.holds(value) for value in (wanted if isinstance(wanted, list | tuple) else [wanted]))


def _meets(value: Value, wanted: Value) -> bool:
    if isinstance(wanted, dict):
        return bool(wanted.get("min", value) <= value <= wanted.get("max", value))
    return value in wanted if isinstance(wanted, list | tuple) else bool(value == wanted)


def _numbers(values: Iterable[Value]) -> bool:
    return all(isinstance(value, int | float) for value in values)


Ask = Callable[[str, Domain], Value]


class Space:
    """Parameters in order, over the config of a base run.

    Raises ``UserError`` for a parameter that is no key of a run, or a condition on something below it.
    """

    def __init__(self, parameters: Mapping[str, Domain], base: Mapping[str, Any], steps: int | None = None) -> None:
        if not parameters:
            raise UserError("space: name at least one parameter, such as generator.architecture.blocks")
        self.parameters, self.steps = dict(parameters), steps
        self.base = RunConfig.parse(base)
        self._values: dict[str, Any] = self.base.model_dump(mode="json")
        self._given: dict[str, Any] = json.loads(json.dumps(base))
        seen: set[str] = set()
        for name, domain in self.parameters.items():
            if name not in STRUCTURE and not self._known(name):
                words = [*STRUCTURE, *_paths(self._values)]
                raise UserError(f"space.{name}: no key of a run's config{nearest(name, words)}")
            if name.partition(".")[0] in SHARED:
                raise UserError(f"space.{name}: is the same for all trials: set it in the base")
            if needed := misfit(name, domain.choice or domain.ends):
                raise UserError(f"space.{name}: {needed} are needed")
            for key, wanted in domain.when.items():
                patch = f"{ARCHITECTURE}.patch"
                if key == "resolution" and patch in self.parameters and patch not in seen:
                    raise UserError(f"space.{name}.when: resolution depends on {patch}: put that above it")
                if key not in seen and (key in self.parameters or not (key == "resolution" or self._known(key))):
                    raise UserError(f"space.{name}.when: '{key}' is neither a parameter above it nor a config key")
                self._check_condition(f"space.{name}.when", key, wanted)
            seen.add(name)

    def _check_condition(self, told: str, key: str, wanted: Value) -> None:
        """Raise ``UserError`` if a condition on ``key`` compares what are no numbers, or can never hold."""
        domain = self.parameters.get(key)
        values = [get(self._values, key)] if domain is None else domain.finite or domain.ends
        if isinstance(wanted, dict) and key != "resolution" and not _numbers(values):
            raise UserError(f"{told}: min and max are for numbers, '{key}' has {', '.join(map(repr, values))}")
        if domain is not None and not domain.meets(wanted):
            raise UserError(f"{told}: '{key}' is never {wanted!r}: mend the condition or leave the parameter out")

    def _known(self, path: str) -> bool:
        parent, _, key = path.rpartition(".")
        node = get(self._values, parent) if parent else self._values
        if isinstance(node, list):
            return key.isdigit() and int(key) < len(node)
        # Options are checked by the part that takes them.
        return isinstance(node, dict) and (key in node or parent.rpartition(".")[2] == "options")

    def active(self, name: str, assignment: Assignment) -> bool:
        """Whether the conditions of ``name`` hold, given the parameters above it."""
        return all(self._fits(key, wanted, assignment) for key, wanted in self.parameters[name].when.items())

    def _fits(self, key: str, wanted: Value, assignment: Assignment) -> bool:
        if key in self.parameters and key not in assignment:
            return False  # inactive itself
        if key == "resolution":
            value: Any = resolution(self._values, assignment)
        else:
            value = assignment[key] if key in assignment else get(self._values, key)
        return _meets(value, wanted)

    def assign(self, ask: Ask) -> Assignment:
        """A value for every active parameter, in order, from ``ask(name, domain)``."""
        assignment: Assignment = {}
        for name, domain in self.parameters.items():
            if self.active(name, assignment):
                assignment[name] = ask(name, domain)
        return assignment

    def check(self, values: Mapping[str, Value]) -> None:
        """Raise ``UserError`` unless ``values`` are an assignment: a value of its domain for every active parameter."""
        for name in values:
            if name not in self.parameters:
                raise UserError(f"{name}: not in the space{nearest(name, self.parameters)}")

        def given(name: str, domain: Domain) -> Value:
            if name not in values:
                raise UserError(f"{name}: has no value")
            if not domain.holds(values[name]):
                among = ", ".join(map(str, domain.choice or ())) or "{} to {}".format(*domain.ends)
                raise UserError(f"{name}: {values[name]!r} is not in the space: {among}")
            return values[name]

        if idle := set(values) - set(self.assign(given)):
            raise UserError(f"{', '.join(sorted(idle))}: not there under the space's conditions; leave it out")

    def draw(self, rng: np.random.Generator) -> Assignment:
        """An assignment at random."""
        return self.assign(lambda name, domain: domain.draw(rng))

    def grid(self) -> Iterator[Assignment]:
        """All assignments, the last parameter fastest; raises ``UserError`` if they are infinitely many."""
        for name, domain in self.parameters.items():
            if domain.finite is None:
                raise UserError(f"space.{name}: a grid needs choice or range, not uniform or loguniform")
        yield from self._below({}, list(self.parameters))

    def _below(self, above: Assignment, names: list[str]) -> Iterator[Assignment]:
        if not names:
            yield dict(above)
            return
        name, *rest = names
        if not self.active(name, above):
            yield from self._below(above, rest)
            return
        for value in self.parameters[name].finite or ():
            yield from self._below({**above, name: value}, rest)

    def config(self, assignment: Assignment) -> RunConfig:
        """The run that an assignment stands for; raises ``UserError`` if there can be no such run."""
        values: dict[str, Any] = json.loads(json.dumps(self._given))
        for name, value in assignment.items():
            if name not in STRUCTURE:
                put(values, name, value, f"space.{name}")
        for path, value in structured(self._values, assignment).items():
            put(values, path, value, f"space.{path}")
        config = RunConfig.parse(values)
        return config if self.steps is None else config.with_steps(self.steps)


def _paths(values: Any, prefix: str = "") -> Iterator[str]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")
