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
