"""The contract of a workflow: JSON Schemas of its input and output, and their hash."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from comfysnap_schema.base import DIGITS_ABOVE, digits_pattern
from comfysnap_schema.comfy import canonical_json
from comfysnap_schema.wire import KINDS, MAX_LORA_NAME, SHA256_PATTERN, Kind
from comfysnap_schema.workflow.loras import STRENGTH
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_schema.workflow.parameters import Parameter

JsonSchema = dict[str, Any]

_PROSE: Final = frozenset({"title", "description", "default", "x-multiline", "x-random", "x-model"})
_UNORDERED: Final = frozenset({"enum", "required", "type"})

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

MODEL_SCHEMA: Final[JsonSchema] = {
    "minLength": 1,
    "properties": {
        "url": {"type": "string", "pattern": "^https?://", "maxLength": 4096},
        "sha256": {"type": ["string", "null"], "pattern": SHA256_PATTERN},
    },
    "required": ["url"],
    "additionalProperties": False,
}
"""A model: a file name, or an object with a URL."""


@dataclass(frozen=True)
class Contract:
    """The interface that clients are generated for; equal hashes mean equal interfaces."""

    input_schema: JsonSchema
    output_schema: JsonSchema
    hash: str


def contract_of(
    name: str, parameters: Mapping[str, Parameter], outputs: Mapping[str, OutputSpec]
) -> Contract:
    """Build both schemas and their hash, which covers neither descriptions nor the graph."""
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
    return Contract(input_schema, output_schema, hash_of(input_schema, output_schema))


def hash_of(input_schema: JsonSchema, output_schema: JsonSchema) -> str:
    """The contract hash of two schemas."""
    essence = canonical_json({"input": bare(input_schema), "output": bare(output_schema)})
    return hashlib.sha256(essence).hexdigest()[:16]


def parameter_schema(parameter: Parameter) -> JsonSchema:
    """The JSON Schema of one parameter.

    It is flat (``minimum`` applies to numbers and ``pattern`` to strings, whatever ``type``
    allows), so that a validator's error names the violated rule.
    """
    schema = _list_schema(parameter) if parameter.is_list else _value_schema(parameter)
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
    """Whether values may exceed 2^53, which JavaScript can send exactly only as a string."""
    return (
        parameter.type == "integer"
        and parameter.choices is None
        and parameter.multiple_of is None
        and parameter.maximum is not None
        and parameter.maximum > DIGITS_ABOVE
        and parameter.minimum is not None
        and parameter.minimum <= 0
    )


def _list_schema(parameter: Parameter) -> JsonSchema:
    item = replace(parameter, required=True)
    schema: JsonSchema = {
        "type": ["array", "null"] if parameter.nullable else "array",
        "items": _lora_schema(item) if parameter.type == "loras" else _value_schema(item),
        "maxItems": parameter.max_items,
    }
    return {**schema, "minItems": parameter.min_items} if parameter.min_items else schema


def _lora_schema(parameter: Parameter) -> JsonSchema:
    name: JsonSchema = {"type": "string", "minLength": 1, "maxLength": MAX_LORA_NAME}
    strength: JsonSchema = {"minimum": parameter.minimum, "maximum": parameter.maximum}
    by_url = {} if parameter.folder is None else dict(MODEL_SCHEMA["properties"])
    either: JsonSchema = {"oneOf": [{"required": ["name"]}, {"required": ["url"]}]}
    return {
        "type": "object",
        "x-type": "lora",
        "properties": {
            "name": name if parameter.choices is None else {"enum": [*parameter.choices]},
            "strength": {"type": "number", **strength, "default": STRENGTH},
            "clip_strength": {"type": ["number", "null"], **strength},
            **by_url,
        },
        **(either if by_url else {"required": ["name"]}),
        "additionalProperties": False,
    }


def _value_schema(parameter: Parameter) -> JsonSchema:
    return {**_type_schema(parameter), **_bounds(parameter)}


def _type_schema(parameter: Parameter) -> JsonSchema:
    nullable = parameter.nullable
    if parameter.type == "file":
        null: list[JsonSchema] = [{"type": "null"}] if nullable else []
        return {
            "oneOf": [*FILE_SCHEMA["oneOf"], *null],
            "x-kind": str(parameter.kind or Kind.FILE),
        }
    if parameter.type == "model":
        types = ["string", "object", *(["null"] if nullable else [])]
        return {"type": types, **MODEL_SCHEMA, "x-model": parameter.folder}
    if parameter.choices is not None:
        return {"enum": [*parameter.choices, *([None] if nullable else [])]}
    if parameter.type == "json":
        return {}
    types = [parameter.type]
    schema: JsonSchema = {}
    if travels_as_digits(parameter):
        types.append("string")
        schema["pattern"] = digits_pattern(
            -int(parameter.minimum or 0), int(cast("int", parameter.maximum))
        )
    if nullable:
        types.append("null")
    return {"type": types if len(types) > 1 else types[0], **schema}


def _bounds(parameter: Parameter) -> JsonSchema:
    bounds = {
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "multipleOf": parameter.multiple_of,
        "maxLength": parameter.max_length,
    }
    return {key: value for key, value in bounds.items() if value is not None}


def _output_schema(spec: OutputSpec) -> JsonSchema:
    one: JsonSchema = {"x-kind": str(spec.kind)}
    json_type = KINDS[spec.kind].json_type
    if json_type is not None:
        one["type"] = json_type
    schema: JsonSchema = {"type": "array", "items": one} if spec.many else one
    return {**schema, "description": spec.description} if spec.description else schema


def bare(schema: JsonSchema) -> JsonSchema:
    """The part of a schema that callers depend on, normalized: no descriptions, sorted lists of
    alternatives, whole numbers as integers."""
    return cast("JsonSchema", _bare(schema))


def _bare(schema: Any, *, names: bool = False) -> Any:
    """``names`` marks a level whose keys are property names."""
    if isinstance(schema, dict):
        return {
            key: _sorted(cast("list[Any]", value))
            if not names and key in _UNORDERED and isinstance(value, list)
            else _bare(value, names=key == "properties" and not names)
            for key, value in cast("JsonSchema", schema).items()
            if names or key not in _PROSE
        }
    if isinstance(schema, list):
        return [_bare(item) for item in cast("list[Any]", schema)]
    if isinstance(schema, float) and schema.is_integer():
        return int(schema)
    return schema


def _sorted(values: list[Any]) -> list[Any]:
    return sorted((_bare(value) for value in values), key=canonical_json)
