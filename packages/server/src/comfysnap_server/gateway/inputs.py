"""Checks inputs against a contract and says, field by field, what would be right."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from typing import Any, Final, cast

import jsonschema_rs
from pydantic import JsonValue

from comfysnap_schema.wire import FieldProblem
from comfysnap_schema.workflow import JsonSchema

MAX_ISSUES: Final = 50
_MAX_CHOICES: Final = 20

_MODEL_FORMS: Final = 'must be a file name or {"url": ..., "sha256": ...}'
FILE_FORMS: Final = 'must be {"sha256": ...}, {"url": ...} or {"data": base64}'


class InputValidator:
    """One contract's validator, built once."""

    def __init__(self, input_schema: JsonSchema) -> None:
        self._known = tuple(input_schema["properties"])
        self._properties: Mapping[str, JsonSchema] = input_schema["properties"]
        self._validator = jsonschema_rs.validator_for(input_schema)

    def problems(self, inputs: Mapping[str, JsonValue]) -> tuple[FieldProblem, ...]:
        """Every issue, at most ``MAX_ISSUES``; empty when the inputs fit."""
        # Apart from the validator, whose error about unknown names lists every one of them.
        known = {name: value for name, value in inputs.items() if name in self._properties}
        found = (self._describe(error) for error in self._errors(known))
        unknown = (
            FieldProblem(field=name[:100], message=self._unknown(name))
            for name in inputs
            if name not in self._properties
        )
        return tuple(islice(chain(found, unknown), MAX_ISSUES))

    def _errors(self, inputs: Mapping[str, JsonValue]) -> Iterable[jsonschema_rs.ValidationError]:
        return () if self._validator.is_valid(inputs) else self._validator.iter_errors(inputs)

    def _describe(self, error: jsonschema_rs.ValidationError) -> FieldProblem:
        field, schema = self._place(error.instance_path)
        if error.kind.name == "required":
            name = str(error.kind.value)
            return FieldProblem(field=f"{field}.{name}" if field else name, message="is required")
        if field:
            return FieldProblem(field=field, message=_message(schema, error))
        return FieldProblem(message=error.message[:300])

    def _place(self, path: Iterable[str | int]) -> tuple[str, JsonSchema]:
        """The field of a value, for example ``images[1]`` or ``loras[0].name``, and its schema;
        what is inside of a file is not a field."""
        field = ""
        schema: JsonSchema = {"properties": self._properties}
        for step in path:
            if isinstance(step, int) and "items" in schema:
                field, schema = f"{field}[{step}]", schema["items"]
            elif step in schema.get("properties", ()):
                field = f"{field}.{step}" if field else str(step)
                schema = schema["properties"][str(step)]
        return field, schema

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name[:100], self._known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._known)}"
        return f"unknown input {name[:100]!r}; {hint}"


def _message(schema: JsonSchema, error: jsonschema_rs.ValidationError) -> str:
    kind, given = error.kind.name, _short(error.instance)
    if "x-kind" in schema:
        return f"{FILE_FORMS}, not {given}"
    if "x-model" in schema and kind == "type":
        return f"{_MODEL_FORMS}, not {given}"
    if schema.get("x-type") == "lora" and kind.startswith("oneOf"):
        return "needs either a name or a url"
    if kind == "pattern" and "maximum" in schema:  # a 64-bit integer as digits
        return f"must be an integer from {schema['minimum']} to {schema['maximum']}, not {given}"
    if kind in ("minItems", "maxItems"):
        given = str(len(cast("list[Any]", error.instance)))
    say = _MESSAGES.get(kind)
    near = _near(error.instance, error.kind.value) if kind == "enum" else ""
    return f"{say(error.kind.value)}, not {given}{near}" if say else error.message[:300]


def _near(value: object, options: list[Any]) -> str:
    """The choices that a text may have been meant to be."""
    texts = [option for option in options if isinstance(option, str)]
    given = value[:200] if isinstance(value, str) else ""
    found = difflib.get_close_matches(given, texts, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _one_of(options: list[Any]) -> str:
    shown = ", ".join(json.dumps(option, ensure_ascii=False) for option in options[:_MAX_CHOICES])
    more = len(options) - _MAX_CHOICES
    return f"must be one of {shown}" + (f" and {more} more" if more > 0 else "")


_MESSAGES: Final[Mapping[str, Callable[[Any], str]]] = {
    "type": lambda types: f"must be of type {' or '.join(t for t in types if t != 'null')}",
    "minimum": lambda limit: f"must be at least {limit}",
    "maximum": lambda limit: f"must be at most {limit}",
    "exclusiveMinimum": lambda limit: f"must be above {limit}",
    "exclusiveMaximum": lambda limit: f"must be below {limit}",
    "multipleOf": lambda step: f"must be a multiple of {step}",
    "maxLength": lambda limit: f"may have at most {limit} characters",
    "minLength": lambda limit: f"needs at least {limit} characters",
    "minItems": lambda limit: f"needs at least {limit} item{'' if limit == 1 else 's'}",
    "maxItems": lambda limit: f"may have at most {limit} item{'' if limit == 1 else 's'}",
    "enum": _one_of,
    "pattern": lambda pattern: f"must match {pattern}",
}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
