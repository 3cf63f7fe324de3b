"""The contract of a workflow: JSON Schemas of its input and output, and their hash."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from comfysnap_schema.files import FILE_KINDS, Kind
from comfysnap_schema.graph import canonical_json
from comfysnap_schema.parameters import Parameter
from comfysnap_schema.routes import SHA256_PATTERN
from comfysnap_schema.spec import OutputSpec

JsonSchema = dict[str, Any]

_PROSE: Final = frozenset({"title", "description", "default", "x-multiline", "x-random"})
_EXACT_IN_JAVASCRIPT: Final = 2**53

FILE_SCHEMA: Final[JsonSchema] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"sha256": {"type": "string", "pattern": SHA256_PATTERN}},
            "required": ["sha256"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"url": {"type": "string", "pattern": "^https?://", "maxLength": 4096}},
            "required": ["url"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "data": {"type": "string"},
                "content_type": {"type": "string", "maxLength": 256},
            },
            "required": ["data"],
            "additionalProperties": False,
        },
    ]
}


@dataclass(frozen=True)
class Contract:
    """What a client generated from; two workflows with one hash take and give the same."""

    input_schema: JsonSchema
    output_schema: JsonSchema
    hash: str


def contract_of(
    name: str, parameters: Mapping[str, Parameter], outputs: Mapping[str, OutputSpec]
) -> Contract:
    """Build both schemas and hash what a caller depends on: no prose, no graph."""
    input_schema: JsonSchema = {
        "type": "object",
        "title": name,
        "properties": {p.name: parameter_schema(p) for p in parameters.values()},
        "required": [p.name for p in parameters.values() if p.required],
        "additionalProperties": False,
    }
    output_schema: JsonSchema = {
        "type": "object",
        "properties": {key: _output_schema(spec) for key, spec in outputs.items()},
        "required": list(outputs),
    }
    digest = hashlib.sha256(
        canonical_json({"input": _bare(input_schema), "output": _bare(output_schema)})
    )
    return Contract(input_schema, output_schema, digest.hexdigest()[:16])


def parameter_schema(parameter: Parameter) -> JsonSchema:
    """The JSON Schema of one parameter."""
    schema: JsonSchema = {}
    if parameter.type == "file":
        schema.update(FILE_SCHEMA, **{"x-kind": str(parameter.kind or Kind.FILE)})
    elif parameter.choices is not None:
        schema["enum"] = list(parameter.choices)
    elif parameter.type != "json":
        schema["type"] = parameter.type
    bounds = {
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "multipleOf": parameter.multiple_of,
        "maxLength": parameter.max_length,
    }
    schema.update({key: value for key, value in bounds.items() if value is not None})
    if travels_as_digits(parameter):
        schema = {"anyOf": [schema, {"type": "string", "pattern": "^[0-9]{1,20}$"}]}
    if parameter.title:
        schema["title"] = parameter.title
    if parameter.description:
        schema["description"] = parameter.description
    if parameter.default is not None:
        schema["default"] = parameter.default
    if parameter.multiline:
        schema["x-multiline"] = True
    if parameter.random:
        schema["x-random"] = True
    return schema


def travels_as_digits(parameter: Parameter) -> bool:
    """Whether values may be beyond 2^53, which JavaScript can only send as a string."""
    return (
        parameter.type == "integer"
        and parameter.choices is None
        and (parameter.maximum or 0) > _EXACT_IN_JAVASCRIPT
    )


def _output_schema(spec: OutputSpec) -> JsonSchema:
    one: JsonSchema = {"x-kind": str(spec.kind)}
    if spec.kind in FILE_KINDS:
        one["type"] = "object"
    elif spec.kind is Kind.TEXT:
        one["type"] = "string"
    schema: JsonSchema = {"type": "array", "items": one} if spec.many else one
    return {**schema, "description": spec.description} if spec.description else schema


def _bare(schema: Any, *, names: bool = False) -> Any:
    """Drop prose; ``names`` marks a level whose keys are property names."""
    if isinstance(schema, dict):
        return {
            key: _bare(value, names=key == "properties" and not names)
            for key, value in cast("JsonSchema", schema).items()
            if names or key not in _PROSE
        }
    if isinstance(schema, list):
        return [_bare(item) for item in cast("list[Any]", schema)]
    return schema
