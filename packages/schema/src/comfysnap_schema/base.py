"""The bases of generated models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from comfysnap_schema.digits import from_digits

BigInt = Annotated[int, BeforeValidator(from_digits)]
"""An integer beyond 2^53: also read from a string of digits, which JavaScript can send exactly."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


NoBool: BeforeValidator = BeforeValidator(_refuse_bool)
"""For a ``Literal`` of integers: to Python ``True`` is 1, to JSON it is not."""


@dataclass(frozen=True)
class OneOf:
    """Allows only ``choices``, and None where the type does; ``Literal`` cannot name floats."""

    choices: tuple[int | float, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check after the type's own validation."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: float | None) -> float | None:
        if value is not None and value not in self.choices:
            allowed = ", ".join(map(str, self.choices))
            raise PydanticCustomError(
                "one_of", "Input should be one of {allowed}", {"allowed": allowed}
            )
        return value


class WorkflowOutput(BaseModel, extra="ignore"):
    """What a workflow hands back; unknown outputs are ignored, so old clients live on."""

    __test__: ClassVar[bool] = False
    """No test case, though the model of ``test_it`` is called TestItOutput: for pytest."""


_REPR_BYTES = 64

OutputT = TypeVar("OutputT", bound=WorkflowOutput)


class WorkflowInput(
    BaseModel,
    Generic[OutputT],
    extra="forbid",
    strict=True,
    allow_inf_nan=False,
    protected_namespaces=(),
    validate_by_name=True,
    validate_by_alias=True,
):
    """What a workflow takes; the type parameter is its output model.

    Types are strict, as on the wire: ``"5"`` and ``True`` are no integers.
    """

    __workflow__: ClassVar[str]
    """Name of the workflow, as in the routes."""
    __contract__: ClassVar[str]
    """The contract hash that the module was generated from."""
    __test__: ClassVar[bool] = False
    """No test case, though the model of ``test_it`` is called TestItInput: for pytest."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields; of long bytes the length, so that a log line stays one."""
        for name, value in super().__repr_args__():
            long = isinstance(value, bytes) and len(value) > _REPR_BYTES
            yield name, f"<{len(value)} bytes>" if long else value

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """JSON has one kind of number, so ``5.0`` is an integer too."""
        if not isinstance(data, dict):
            return data
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in cast("dict[str, Any]", data).items()
        }


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
