"""Contracts as schemas of tools that a language model fills in, and what it fills in as inputs."""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from pydantic import JsonValue

from comfysnap_schema.wire import FieldProblem, JobStatus, routes
from comfysnap_schema.workflow import JsonSchema, Parameter, Workflow
from comfysnap_server.gateway.inputs import FILE_FORMS

GET_JOB: Final = "get_job"
CANCEL_JOB: Final = "cancel_job"
FIXED: Final = frozenset({GET_JOB, CANCEL_JOB})
"""Names that no workflow can have as a tool."""

_MAX_EXACT: Final = 2**53 - 1
"""Largest integer that a host in JavaScript hands on as it is."""
_FILE: Final[JsonSchema] = {
    "type": "string",
    "pattern": r"^(https?://.+|sha256:[0-9a-f]{64})$",
    "maxLength": 4096,
}
_FILE_HELP: Final = (
    "An http(s) URL, which may be the link of an earlier result, or sha256: and the hash of an"
    " uploaded file."
)
_FILE_MESSAGE: Final = "must be an http(s) URL, or sha256: and 64 hex digits"
_SHA256: Final = re.compile("sha256:([0-9a-fA-F]{64})")
_FILE_RESULT: Final[JsonSchema] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "description": "Needs no key; valid for an hour."},
        "name": {"type": "string"},
        "kind": {"type": "string"},
        "content_type": {"type": "string"},
        "size": {"type": "integer", "description": "Bytes."},
    },
    "required": ["url", "name", "content_type", "size"],
}
_JOB: Final[JsonSchema] = {
    "type": "string",
    "pattern": routes.JOB_ID_PATTERN,
    "description": "ID of the job: job_...",
}


def input_schema(workflow: Workflow) -> JsonSchema:
    """What a model fills in: plain types, with the bounds, choices and texts of the contract."""
    contract = workflow.contract.input_schema
    return {
        "type": "object",
        "properties": {
            name: _parameter(workflow.parameters[name], schema)
            for name, schema in contract["properties"].items()
        },
        "required": list(contract["required"]),
        "additionalProperties": False,
    }


def output_schema(outputs: Mapping[str, JsonSchema] | None = None) -> JsonSchema:
    """The structured content of a call; ``outputs`` are those of one workflow's contract."""
    known = {name: _result(schema) for name, schema in (outputs or {}).items()}
    return {
        "type": "object",
        "properties": {
            "job": _JOB,
            "status": {"enum": [str(status) for status in JobStatus]},
            "progress": {
                "type": "number",
                "description": "Part of the run that is done, from 0 to 1.",
            },
            "seeds": {
                "type": "object",
                "description": "Seeds as run. The same seed and inputs give the same result.",
            },
            "outputs": {"type": "object", **({"properties": known} if known else {})},
            "error": {"type": "object", "description": "Why it did not succeed."},
        },
        "required": ["job", "status"],
    }


def get_job_schema(max_wait: float) -> JsonSchema:
    """The input of ``get_job``."""
    return {
        "type": "object",
        "properties": {
            "job": _JOB,
            "wait": {
                "type": "number",
                "minimum": 0,
                "maximum": max_wait,
                "default": max_wait,
                "description": "Seconds to wait for the job to end.",
            },
        },
        "required": ["job"],
        "additionalProperties": False,
    }


def cancel_job_schema() -> JsonSchema:
    """The input of ``cancel_job``."""
    return {
        "type": "object",
        "properties": {"job": _JOB},
        "required": ["job"],
        "additionalProperties": False,
    }


def description(workflow: Workflow) -> str:
    """What the tool of a workflow does."""
    spec = workflow.spec
    outputs = ", ".join(
        f"{name} ({output.kind}{', several' if output.many else ''})"
        for name, output in workflow.outputs.items()
    )
    texts = (spec.title or workflow.name, spec.description, f"Returns {outputs}.")
    return "\n".join(text for text in texts if text)


def inputs_of(workflow: Workflow, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The inputs that a model's arguments set. Null is as if left out; files become objects."""
    return {
        name: _value(workflow.parameters.get(name), value)
        for name, value in arguments.items()
        if value is not None
    }


def for_a_model(problems: Iterable[FieldProblem]) -> tuple[FieldProblem, ...]:
    """Problems with inputs, in terms of the tool's schema."""
    return tuple(
        problem.model_copy(update={"message": problem.message.replace(FILE_FORMS, _FILE_MESSAGE)})
        for problem in problems
    )


def is_file(parameter: Parameter | None) -> bool:
    """Whether the values of a parameter are files."""
    return parameter is not None and parameter.type == "file"


def _value(parameter: Parameter | None, value: JsonValue) -> JsonValue:
    if not is_file(parameter):
        return value
    if isinstance(value, list):
        return [_file(item) for item in value]
    return _file(value)


def _file(value: JsonValue) -> JsonValue:
    """What is not a file stays as it is, for the validator to name."""
    if not isinstance(value, str):
        return value
    if found := _SHA256.fullmatch(value):
        return {"sha256": found[1].lower()}
    return {"url": value} if value.startswith(("http://", "https://")) else value


def _parameter(parameter: Parameter, contract: JsonSchema) -> JsonSchema:
    schema = copy.deepcopy(contract)
    if parameter.is_list:
        items = schema["items"]
        schema["items"] = _lora(items) if parameter.type == "loras" else _plain(parameter, items)
        schema["type"] = "array"
    else:
        schema = _plain(parameter, schema)
    schema = {key: value for key, value in schema.items() if not key.startswith("x-")}
    help_texts = [schema.get("description", ""), _help(parameter)]
    text = " ".join(text for text in help_texts if text)
    return {**schema, "description": text} if text else schema


def _plain(parameter: Parameter, schema: JsonSchema) -> JsonSchema:
    """A value without alternatives: one type, no null."""
    kept = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if parameter.type == "file":
        kept.pop("oneOf")
        return {**kept, **_FILE}
    if parameter.type == "model":
        for key in ("properties", "required", "additionalProperties"):
            kept.pop(key, None)
        return {**kept, "type": "string"}
    if parameter.choices is not None:
        texts = all(isinstance(choice, str) for choice in parameter.choices)
        return {**({"type": "string"} if texts else {}), **kept, "enum": [*parameter.choices]}
    if parameter.type == "json":
        return kept
    kept["type"] = parameter.type
    if parameter.type == "integer":
        kept.pop("pattern", None)
        kept.update(_exact(kept))
    return kept


def _exact(schema: JsonSchema) -> JsonSchema:
    """The bounds of an integer, as far as every host can keep to them."""
    limits = {"minimum": (max, -_MAX_EXACT), "maximum": (min, _MAX_EXACT)}
    return {
        name: pick(schema[name], limit) for name, (pick, limit) in limits.items() if name in schema
    }


def _lora(schema: JsonSchema) -> JsonSchema:
    properties = cast("dict[str, JsonSchema]", schema["properties"])
    kept = {key: properties[key] for key in ("name", "strength", "url") if key in properties}
    return {
        "type": "object",
        "properties": kept,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


def _help(parameter: Parameter) -> str:
    if parameter.type == "file":
        return _FILE_HELP
    if parameter.type == "model":
        return "A model file of the server, or a URL where the server allows it."
    if parameter.type == "loras":
        return "Each has a name, or a url if the schema has one."
    return "Drawn at random when left out." if parameter.random else ""


def _result(schema: JsonSchema) -> JsonSchema:
    kept = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if "items" in schema:
        return {**kept, "items": _result(schema["items"])}
    return {**kept, **_FILE_RESULT} if schema.get("type") == "object" else kept
