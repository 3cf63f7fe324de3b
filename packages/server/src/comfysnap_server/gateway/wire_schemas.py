"""OpenAPI schemas of what the server sends, from the models of the wire and the contracts."""

import ast
import copy
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from comfysnap_schema.wire import (
    FILE_KINDS,
    FileBySha256,
    FileByUrl,
    FileInline,
    JobEvent,
    JobPage,
    JobRecord,
    Limits,
    Link,
    LinkRequest,
    OutputFile,
    Problem,
    PurgeReport,
    WebhookPayload,
    WorkflowDetail,
    WorkflowSummary,
)
from comfysnap_schema.workflow import Workflow

Schema = dict[str, Any]

_SENT: Final[tuple[type[BaseModel], ...]] = (
    JobEvent, JobPage, JobRecord, Limits, Link, OutputFile, Problem, PurgeReport, WebhookPayload,
    WorkflowDetail, WorkflowSummary,
)  # fmt: skip
_TAKEN: Final[tuple[type[BaseModel], ...]] = (FileBySha256, FileByUrl, FileInline, LinkRequest)
_REF: Final = "#/components/schemas/"
_CODE: Final = re.compile(r"``([^`]*)``")
_NONE: Final = re.compile(r"(?<![\w-])None(?![\w-])")
_PYTHON_EXAMPLE: Final = re.compile(r"\n+Example: .*|::\n.*", re.DOTALL)
_EVENTS: Final = {
    "status": ("job", "Job"),
    "progress": ("progress", "Progress"),
    "preview": ("preview", "Preview"),
    "output": ("output", "NamedOutput"),
    "done": ("job", "Job"),
}
"""Type of an event to the field that it has, and the component in it."""
_DESCRIPTIONS: Final = {
    "ErrorCode": "What went wrong, for programs. Later versions of the server may send more.",
    "Kind": "What a file is.",
    "OutputFile": "A file that a job produced.",
}
"""Where docstrings are about Python."""


class _WireSchema(GenerateJsonSchema):
    """Described by the docstrings of models and fields. What is sent has all its fields, and of
    an enum that clients keep open the values that this server sends."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if self.mode == "serialization":
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        if schema.get("mode") == "left_to_right":
            first = schema["choices"][0]
            return self.generate_inner(first[0] if isinstance(first, tuple) else first)
        return super().union_schema(schema)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, text in _field_docs(model).items():
            if name in found.get("properties", {}):
                found["properties"][name]["description"] = prose(text)
        return found


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": _REF + name}


def prose(text: str) -> str:
    """A docstring for readers of the API: Markdown, without examples in Python."""
    text = _PYTHON_EXAMPLE.sub("", inspect.cleandoc(text)).strip()
    return _NONE.sub("null", _CODE.sub(r"`\1`", text))


def component_schemas(workflows: Mapping[str, Workflow]) -> dict[str, Schema]:
    """All component schemas, by name.

    Each workflow has ``NAME_Input``, ``NAME_Output`` and ``NAME_Job``; ``Job`` is any of the jobs.
    """
    _, sent = models_json_schema(
        [(model, "serialization") for model in _SENT],
        ref_template=_REF + "{model}",
        schema_generator=_WireSchema,
    )
    _, taken = models_json_schema(
        [(model, "validation") for model in _TAKEN],
        ref_template=_REF + "{model}",
        schema_generator=_WireSchema,
    )
    schemas: dict[str, Schema] = {**sent["$defs"], **taken["$defs"]}
    schemas["Kind"]["enum"] = [kind for kind in schemas["Kind"]["enum"] if kind in FILE_KINDS]
    schemas["FileInput"] = {
        "description": "An input file: uploaded earlier, behind a public URL, or inline.",
        "oneOf": [ref(model.__name__) for model in (FileBySha256, FileByUrl, FileInline)],
    }
    for name, schema in schemas.items():
        if "description" in schema:
            schema["description"] = _DESCRIPTIONS.get(name) or prose(schema["description"])
    record = schemas.pop(JobRecord.__name__)
    for name, workflow in workflows.items():
        schemas[f"{name}_Input"] = _input(workflow)
        schemas[f"{name}_Output"] = _output(workflow)
        schemas[f"{name}_Job"] = _job(record, workflow)
    schemas["Job"] = _any_job(record, workflows)
    schemas["JobPage"]["properties"]["jobs"]["items"] = ref("Job")
    schemas["WebhookJob"] = _webhook_job(record)
    schemas["WebhookPayload"]["properties"]["data"]["$ref"] = _REF + "WebhookJob"
    schemas["NamedOutput"]["properties"]["value"] = _any_value(workflows.values())
    schemas.update(_events(schemas[JobEvent.__name__]["description"]))
    return schemas


def _input(workflow: Workflow) -> Schema:
    """The contract's, with the alternatives of a file by name."""
    schema = copy.deepcopy(workflow.contract.input_schema)
    for name, found in schema["properties"].items():
        parameter = workflow.parameters[name]
        if parameter.type != "file":
            continue
        value = found["items"] if parameter.is_list else found
        is_nullable = {"type": "null"} in value.pop("oneOf")
        either = {"oneOf": [ref("FileInput"), {"type": "null"}]}
        value.update(either if is_nullable else ref("FileInput"))
    text = f"{_title('Inputs of', workflow)}\n\n{workflow.spec.description}".strip()
    return {**schema, "title": f"{workflow.name}_Input", "description": text}


def _output(workflow: Workflow) -> Schema:
    properties = {
        name: _value(found) for name, found in workflow.contract.output_schema["properties"].items()
    }
    return {
        "type": "object",
        "title": f"{workflow.name}_Output",
        "description": _title("Outputs of", workflow),
        "properties": properties,
        "required": list(properties),
    }


def _value(schema: Schema) -> Schema:
    """The schema of an output, which the contract describes by its kind."""
    if "items" in schema:
        return {**schema, "items": _value(schema["items"])}
    if schema.get("type") != "object":
        return schema
    return {**{key: value for key, value in schema.items() if key != "type"}, **ref("OutputFile")}


def _title(what: str, workflow: Workflow) -> str:
    return f"{what} `{workflow.name}`: {workflow.spec.title or workflow.name}."


def _job(record: Schema, workflow: Workflow) -> Schema:
    """A job of one workflow. One with several outputs has some of them before the others."""
    job = copy.deepcopy(record)
    properties = job["properties"]
    output = _output(workflow)
    partial = {
        "type": "object",
        "description": "Those that are complete, of a job that has not succeeded.",
        "properties": output["properties"],
    }
    properties["workflow"] = {"const": workflow.name, "type": "string"}
    properties["inputs"] = {**ref(f"{workflow.name}_Input"), **_described(properties["inputs"])}
    properties["outputs"] = {
        "anyOf": [
            ref(f"{workflow.name}_Output"),
            *([partial] if len(output["properties"]) > 1 else []),
            {"type": "null"},
        ],
        **_described(properties["outputs"]),
    }
    return {**job, "title": f"{workflow.name}_Job", "description": _title("A job of", workflow)}


def _any_job(record: Schema, workflows: Mapping[str, Workflow]) -> Schema:
    if not workflows:
        return {**record, "title": "Job"}
    jobs = {name: _REF + f"{name}_Job" for name in workflows}
    return {
        "title": "Job",
        "description": "A job of any workflow. One that ran before its workflow was changed or"
        " removed is as it was then.",
        "oneOf": [{"$ref": name} for name in jobs.values()],
        "discriminator": {"propertyName": "workflow", "mapping": jobs},
    }


def _webhook_job(record: Schema) -> Schema:
    job = copy.deepcopy(record)
    del job["properties"]["inputs"]
    job["required"] = [name for name in job["required"] if name not in ("inputs", "outputs")]
    return {**job, "title": "WebhookJob"}


def _any_value(workflows: Iterable[Workflow]) -> Schema:
    """An output of any workflow."""
    found: list[Schema] = []
    for workflow in workflows:
        for schema in _output(workflow)["properties"].values():
            value = _essence(schema)
            if value not in found:
                found.append(value)
    return {"description": "As in the `outputs` of the job.", "anyOf": found} if all(found) else {}


def _essence(schema: Schema) -> Schema:
    kept = {key: schema[key] for key in ("type", "$ref") if key in schema}
    return {**kept, "items": _essence(schema["items"])} if "items" in schema else kept


def _events(description: str) -> dict[str, Schema]:
    """``JobEvent`` and what it may be, by name."""
    names = {kind: f"{kind.capitalize()}Event" for kind in _EVENTS}
    events: dict[str, Schema] = {
        names[kind]: {
            "type": "object",
            "title": names[kind],
            "properties": {"type": {"const": kind, "type": "string"}, field: ref(content)},
            "required": ["type", field],
        }
        for kind, (field, content) in _EVENTS.items()
    }
    event: Schema = {
        "title": "JobEvent",
        "description": description,
        "oneOf": [ref(name) for name in names.values()],
        "discriminator": {
            "propertyName": "type",
            "mapping": {kind: _REF + name for kind, name in names.items()},
        },
    }
    return {**events, "JobEvent": event}


def _described(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


@cache
def _field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings below the fields of a model and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            found.update(_own_field_docs(cls))
    return found


def _own_field_docs(cls: type[BaseModel]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # installed without sources
        return {}
    body = cast("ast.ClassDef", ast.parse(source).body[0]).body
    return {
        field.target.id: doc.value.value
        for field, doc in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
