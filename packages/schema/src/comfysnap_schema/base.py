"""The bases of generated models."""

from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel


class WorkflowOutput(BaseModel, frozen=True, extra="ignore"):
    """What a workflow hands back; unknown outputs are ignored, so old clients live on."""


OutputT = TypeVar("OutputT", bound=WorkflowOutput)


class WorkflowInput(
    BaseModel,
    Generic[OutputT],
    extra="forbid",
    protected_namespaces=(),
    validate_by_name=True,
    validate_by_alias=True,
):
    """What a workflow takes; the type parameter is its output model."""

    __workflow__: ClassVar[str]
    """Name of the workflow, as in the routes."""
    __contract__: ClassVar[str]
    """The contract hash that the module was generated from."""


def wire_inputs(inputs: WorkflowInput[Any]) -> dict[str, Any]:
    """What ``POST /infer_*`` takes: only the fields that were set, under their API names.

    Fields that were left out or are None stay out, so the server's defaults hold. File inputs are
    left as the caller gave them (path, bytes, open file, URL model): uploading is the client's.
    """
    fields = type(inputs).model_fields
    wire: dict[str, Any] = {}
    for name in fields:  # the order of the model, so that equal inputs make equal bodies
        value = getattr(inputs, name) if name in inputs.model_fields_set else None
        if value is not None:
            wire[fields[name].alias or name] = value
    return wire


def output_type(inputs: type[WorkflowInput[OutputT]]) -> type[OutputT]:
    """The output model that a generated input model names as its type parameter.

    Raises:
        TypeError: The class is no subclass of ``WorkflowInput[SomeOutput]``.
    """
    for base in inputs.__mro__:
        metadata = cast(
            "dict[str, Any] | None", getattr(base, "__pydantic_generic_metadata__", None)
        )
        if metadata and metadata["origin"] is WorkflowInput and metadata["args"]:
            return cast("type[OutputT]", metadata["args"][0])
    raise TypeError(f"{inputs.__name__} names no output model")
