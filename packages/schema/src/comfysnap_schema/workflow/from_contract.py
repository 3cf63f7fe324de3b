"""A workflow read from the contract that a server sends: what modules are generated from."""

import keyword
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from comfysnap_schema.wire import WORKFLOW_NAME_PATTERN, Kind, WorkflowDetail, WorkflowError
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_schema.workflow.map import (
    InputSpec,
    OutputSpec,
    ParameterName,
    Place,
    WorkflowSpec,
    invalid_name,
)
from comfysnap_schema.workflow.parameters import Parameter, ParameterType
from comfysnap_schema.workflow.resolve import checked_default

_PLAIN: dict[object, ParameterType] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}


class _Schema(BaseModel, frozen=True, extra="ignore", allow_inf_nan=False):
    """The JSON Schema of an input or output, as ``contract.py`` writes it."""

    type: StrictStr | list[StrictStr] = ""
    title: StrictStr = ""
    description: StrictStr = ""
    default: JsonValue = None
    enum: list[StrictStr | StrictBool | StrictInt | StrictFloat | None] | None = None
    minimum: StrictInt | StrictFloat | None = None
    maximum: StrictInt | StrictFloat | None = None
    multiple_of: StrictInt | None = Field(default=None, alias="multipleOf")
    max_length: StrictInt | None = Field(default=None, alias="maxLength")
    items: "_Schema | None" = None
    min_items: StrictInt = Field(default=0, alias="minItems")
    max_items: StrictInt = Field(default=0, alias="maxItems")
    properties: "dict[str, _Schema]" = Field(default_factory=dict[str, Any])
    kind: Kind | None = Field(default=None, alias="x-kind")
    folder: StrictStr = Field(default="", alias="x-model")
    multiline: StrictBool = Field(default=False, alias="x-multiline")
    random: StrictBool = Field(default=False, alias="x-random")
    x_type: StrictStr = Field(default="", alias="x-type")

    def parameter_type(self, choices: Sequence[object] | None) -> ParameterType:
        """The type of the values."""
        if choices is not None:
            kinds = {type(choice) for choice in choices}
            if float in kinds:
                return "number"
            return "integer" if int in kinds else "boolean" if bool in kinds else "string"
        if self.kind is not None:
            return "file"
        types = [self.type] if isinstance(self.type, str) else self.type
        return "model" if "object" in types else _PLAIN.get(next(iter(types), ""), "json")


class _Inputs(BaseModel, frozen=True, extra="ignore"):
    properties: dict[ParameterName, _Schema]
    required: list[StrictStr]


class _Outputs(BaseModel, frozen=True, extra="ignore"):
    properties: dict[ParameterName, _Schema]


def workflow_from_contract(detail: WorkflowDetail) -> Workflow:
    """A workflow without a graph, which cannot run: the same modules are generated from it as from
    the folder that the server has. Nothing in ``detail`` is trusted.

    Raises:
        WorkflowError: ``invalid_name``; ``invalid_contract``: damaged, or of a format that this
            version does not know.
    """
    check_workflow_name(detail.name)
    try:
        inputs = _Inputs.model_validate(detail.input_schema)
        outputs = _Outputs.model_validate(detail.output_schema)
        spec = WorkflowSpec(
            name=detail.name,
            title=detail.title,
            description=detail.description,
            inputs={name: InputSpec() for name in inputs.properties},
            outputs={name: _output(schema) for name, schema in outputs.properties.items()},
        )
        parameters = {
            name: _parameter(name, schema, required=name in inputs.required)
            for name, schema in inputs.properties.items()
        }
        workflow = Workflow(folder=Path(detail.name), spec=spec, graph={}, parameters=parameters)
        known = workflow.contract.hash == detail.contract
    except (ValidationError, ValueError, WorkflowError) as error:
        raise _invalid(detail.name) from error
    if not known:
        raise _invalid(detail.name)
    return workflow


def check_workflow_name(name: str) -> None:
    """Refuse a name that is not safe as a part of a path and as the name of a module.

    Raises:
        WorkflowError: ``invalid_name``.
    """
    if not re.fullmatch(WORKFLOW_NAME_PATTERN.strip("^$"), name) or keyword.iskeyword(name):
        raise WorkflowError("invalid_name", f"the server has an {invalid_name('workflow', name)}")


def _invalid(name: str) -> WorkflowError:
    message = (
        f"the contract of {name!r} is not in the format of this version of comfysnap;"
        " install the version that the server has"
    )
    return WorkflowError("invalid_contract", message)


def _output(schema: _Schema) -> OutputSpec:
    one = schema if schema.items is None else schema.items
    kind = Kind(one.kind)
    many = schema.items is not None
    return OutputSpec(node="", kind=kind, many=many, description=schema.description)


def _parameter(name: str, schema: _Schema, *, required: bool) -> Parameter:
    found = Parameter(
        name=name,
        type="loras",
        title=schema.title,
        description=schema.description,
        required=required,
        multiline=schema.multiline,
        random=schema.random,
        min_items=schema.min_items,
        max_items=schema.max_items,
    )
    if schema.items is not None and schema.items.x_type == "lora":
        found = _with_loras(found, schema.items.properties)
    else:
        found = _with_values(found, schema.items or schema, each=schema.items is not None)
    return _with_default(found, schema.default)


def _with_loras(parameter: Parameter, properties: dict[str, _Schema]) -> Parameter:
    return replace(
        parameter,
        minimum=properties["strength"].minimum,
        maximum=properties["strength"].maximum,
        choices=_choices(properties["name"]),
        folder="loras" if "url" in properties else None,
    )


def _with_values(parameter: Parameter, schema: _Schema, *, each: bool) -> Parameter:
    choices = _choices(schema)
    type_ = schema.parameter_type(choices)
    return replace(
        parameter,
        type=type_,
        each=each,
        minimum=schema.minimum,
        maximum=schema.maximum,
        multiple_of=schema.multiple_of,
        max_length=schema.max_length,
        choices=choices,
        kind=schema.kind,
        folder=schema.folder if type_ == "model" else None,
    )


def _choices(schema: _Schema) -> tuple[str | int | float | bool, ...] | None:
    if schema.enum is None:
        return None
    return tuple(choice for choice in schema.enum if choice is not None)


def _with_default(parameter: Parameter, default: JsonValue) -> Parameter:
    """Defaults are not in the hash of a contract, so they are checked as those of a map are."""
    if default is None:
        return parameter
    scope = Place(parameter.name, f"inputs.{parameter.name}")
    is_empty = parameter.is_list and default == []
    if (parameter.is_list and not isinstance(default, list)) or (
        parameter.type in ("file", "loras") and not is_empty
    ):
        scope.fail("wrong_default_type", "not a valid default", "default")
    for value in cast("list[JsonValue]", default) if parameter.is_list else [default]:
        checked_default(parameter, value, scope)
    return replace(parameter, default=default)
