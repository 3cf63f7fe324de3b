"""Checks inputs against a contract and says, field by field, what would be right."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from typing import Any, Final

import jsonschema_rs
from pydantic import JsonValue

from comfysnap_schema.wire import FieldProblem
from comfysnap_schema.workflow import JsonSchema

MAX_ISSUES: Final = 50
_MAX_CHOICES: Final = 20

_FILE_FORMS: Final = 'must be {"sha256": ...}, {"url": ...} or {"data": base64}'


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
        if error.instance_path:
            field = str(error.instance_path[0])
            return FieldProblem(field=field, message=self._message(field, error))
        if error.kind.name == "required":
            return FieldProblem(field=error.kind.value, message="is required")
        return FieldProblem(message=error.message[:300])

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name[:100], self._known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._known)}"
        return f"unknown input {name[:100]!r}; {hint}"

    def _message(self, field: str, error: jsonschema_rs.ValidationError) -> str:
        schema = self._properties[field]
        given = _short(error.instance)
        if "x-kind" in schema:
            return f"{_FILE_FORMS}, not {given}"
        if error.kind.name == "pattern" and "maximum" in schema:  # a 64-bit integer as digits
            return (
                f"must be an integer from {schema['minimum']} to {schema['maximum']}, not {given}"
            )
        say = _MESSAGES.get(error.kind.name)
        return f"{say(error.kind.value)}, not {given}" if say else error.message[:300]


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
    "enum": _one_of,
    "pattern": lambda pattern: f"must match {pattern}",
}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
