"""The base classes and field types of generated models."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DIGITS_ABOVE: Final = 2**53
"""Integers up to this are exact in every JSON implementation."""

_CANONICAL: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,39})\Z")
"""40 digits are far above 64 bits, and far below what makes ``int()`` slow."""


def from_digits(value: Any) -> Any:
    """Convert a string of digits without leading zeros to ``int``; return the rest unchanged."""
    if isinstance(value, str) and _CANONICAL.match(value):
        return int(value)
    return value


BigInt = Annotated[int, BeforeValidator(from_digits)]
"""An integer beyond 2^53: also read from a string of digits, which JavaScript can send exactly."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


NoBool: BeforeValidator = BeforeValidator(_refuse_bool)
"""For a ``Literal`` of integers: in Python ``True`` equals 1, in JSON it does not."""


@dataclass(frozen=True)
class OneOf:
    """Allow only ``choices``, and None where the type does; ``Literal`` cannot hold floats."""

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
    """Outputs of a workflow; unknown ones are ignored, so that older clients keep working."""

    __test__: ClassVar[bool] = False
    """Keeps pytest from collecting a model such as TestItOutput, of the workflow ``test_it``."""


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
    """Inputs of a workflow; the type parameter is its output model.

    Types are strict, as on the wire: ``"5"`` and ``True`` are not integers.
    """

    __workflow__: ClassVar[str]
    """Name of the workflow, as in the routes."""
    __contract__: ClassVar[str]
    """The contract hash that the module was generated from."""
    __test__: ClassVar[bool] = False
    """Keeps pytest from collecting a model such as TestItInput, of the workflow ``test_it``."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields, with long bytes shown as their length to keep log lines short."""
        for name, value in super().__repr_args__():
            listed = isinstance(value, list)
            yield (
                name,
                [*map(_shortened, cast("list[Any]", value))] if listed else _shortened(value),
            )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """JSON has one kind of number, so ``5.0`` is an integer too."""
        if not isinstance(data, dict):
            return data
        return {key: _whole(value) for key, value in cast("dict[str, Any]", data).items()}


class _Bytes:
    """Long bytes in a repr."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __repr__(self) -> str:
        return f"<{self._size} bytes>"


def _shortened(value: Any) -> Any:
    long = isinstance(value, bytes) and len(value) > _REPR_BYTES
    return _Bytes(len(value)) if long else value


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def wire_inputs(inputs: WorkflowInput[Any]) -> dict[str, Any]:
    """The JSON body of ``POST /infer_*``: only the fields that were set, under their API names.

    Fields that were left out or are None are omitted, so the server's defaults apply. File inputs
    stay as the caller passed them (path, bytes, open file, URL model): the client uploads them.
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
        TypeError: The class is not a subclass of ``WorkflowInput[SomeOutput]``.
    """
    for base in inputs.__mro__:
        metadata = cast(
            "dict[str, Any] | None", getattr(base, "__pydantic_generic_metadata__", None)
        )
        if metadata and metadata["origin"] is WorkflowInput and metadata["args"]:
            return cast("type[OutputT]", metadata["args"][0])
    raise TypeError(f"{inputs.__name__} must be a subclass of WorkflowInput[SomeOutput]")


def digits_pattern(lowest_magnitude: int, highest: int) -> str:
    """A pattern for the canonical digits of every integer from ``-lowest_magnitude`` to
    ``highest``, neither below 0."""
    positive = _up_to(highest)
    if not lowest_magnitude:
        return f"^(?:0|{positive})$"
    return f"^(?:0|{positive}|-(?:{_up_to(lowest_magnitude)}))$"


def _up_to(highest: int) -> str:
    """Alternatives for 1 to ``highest``: fewer digits, or equal digits and then a smaller one."""
    digits = str(highest)
    parts = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    for index, digit in enumerate(digits):
        lowest = 1 if index == 0 else 0
        if int(digit) > lowest:
            rest = len(digits) - index - 1
            tail = f"[0-9]{{{rest}}}" if rest else ""
            parts.append(f"{digits[:index]}[{lowest}-{int(digit) - 1}]{tail}")
    return "|".join([*parts, digits])
