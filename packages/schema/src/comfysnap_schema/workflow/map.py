"""``workflow.toml``: the input map of one workflow."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

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

from comfysnap_schema.wire import WORKFLOW_NAME_PATTERN, Kind, WorkflowError
from comfysnap_schema.workflow.parameters import ParameterType

ParameterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Choice = StrictStr | StrictBool | StrictInt | StrictFloat


class InputSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One API parameter; omitted keys come from the graph and the node catalogue."""

    path: str | list[str] | None = None
    """Where the value goes: one or more ``NODE.inputs.NAME``. None: only ``prepare.py`` reads
    it."""
    each: Annotated[list[str], Field(min_length=1)] | None = None
    """Instead of ``path``: the input is a list, with one value for each of these places, in order.
    A place without a value is removed from the graph."""
    min_items: Annotated[int, Field(ge=0)] | None = None
    """Default: as few as the graph can do with."""
    max_items: Annotated[int, Field(ge=1)] | None = None
    """Default: the number of places; 8 LoRAs."""
    after: str | None = None
    """For ``type = "loras"``: id of the node whose model the LoRAs change."""
    clip_after: str | None = None
    """Id of the node whose CLIP they change. Default: ``after``, if it has one."""
    bypass: str | list[str] | None = None
    """Node ids that are bypassed when this boolean is false."""
    title: str | None = None
    """Display name. Default: the parameter's name."""
    description: str = ""
    """What it does, for the docstring of the field and the form on the page."""
    type: ParameterType | None = None
    """Default: the type in the node catalogue, else the type of the graph's value."""
    kind: Kind | None = None
    """The kind of a file input; an input with a kind is a file."""
    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")] | None = None
    """The folder of ``models/`` that a model input is loaded from (``checkpoints``). Default: that
    of ComfyUI's own loaders, by the name of the node's input."""
    required: bool | None = None
    """Default: required when there is no default value."""
    default: JsonValue = None
    """Default: the graph's own value."""
    minimum: int | float | None = None
    """Default: that of the node catalogue."""
    maximum: int | float | None = None
    """Default: that of the node catalogue."""
    multiple_of: Annotated[int, Field(ge=1)] | None = None
    """Only for integers."""
    choices: Annotated[Sequence[Choice], Field(min_length=1)] | None = None
    """The values that are allowed. Default: those of the node catalogue."""
    multiline: bool | None = None
    """Whether a text may have several lines; only a hint. Default: that of the node catalogue."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """Maximum characters of a text. Default: limited only by the size of the request."""
    random: bool = False
    """Random for each job when left out, below 2^53 so that browsers keep it exact, and reported in
    the job's ``inputs``."""


class OutputSpec(BaseModel, frozen=True, extra="forbid"):
    """One named output, read from one output node."""

    node: str
    """Id of the output node."""
    kind: Kind = Kind.IMAGE
    """Kind of its files; ``text`` and ``json`` are values, not files."""
    many: bool = False
    """Whether the output is a list."""
    description: str = ""
    """What it is, for the docstring of the field."""


class WorkflowSpec(BaseModel, frozen=True, extra="forbid"):
    """The whole ``workflow.toml``."""

    name: Annotated[str, Field(pattern=WORKFLOW_NAME_PATTERN)]
    """Name in routes and modules, usually also that of the folder."""
    title: str = ""
    """Display name."""
    description: str = ""
    """What it makes, for the docstring of the model."""
    inputs: dict[ParameterName, InputSpec] = Field(default_factory=dict)
    outputs: Annotated[dict[ParameterName, OutputSpec], Field(min_length=1)]
    constants: dict[str, JsonValue] = Field(default_factory=dict)
    """Path to a fixed value, which replaces the one in the graph."""


def read_spec(path: Path) -> WorkflowSpec:
    """Read a ``workflow.toml``.

    Raises:
        WorkflowError: ``unreadable``, ``invalid_toml``, ``unknown_key`` or ``invalid_value``, with
            the file, the key and what is valid.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError("unreadable", error.strerror or str(error), file=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkflowError("invalid_toml", str(error), file=str(path)) from error
    try:
        return WorkflowSpec.model_validate(data)
    except ValidationError as error:
        raise _first_problem(error, path) from error


def _first_problem(error: ValidationError, path: Path) -> WorkflowError:
    found = error.errors()[0]
    key = key_of(found["loc"])
    if found["type"] != "extra_forbidden":
        message = re.sub(r"<Kind\.\w+: ('[^']+')>", r"\1", found["msg"])
        if found["type"] in ("model_type", "dict_type"):
            message = f"must be a table: [{key}]"
        elif found["type"] == "string_pattern_mismatch":
            thing = {"inputs": "input", "outputs": "output"}.get(key.partition(".")[0], "workflow")
            message = invalid_name(thing, found["input"])
        return WorkflowError("invalid_value", message, file=str(path), field=key)
    parent = cast("tuple[Any, ...]", found["loc"])[:-1]
    known = _MODELS[parent[0] if parent else ""].model_fields
    return WorkflowError(
        "unknown_key", f"unknown key; valid keys: {', '.join(known)}", file=str(path), field=key
    )


@dataclass(frozen=True)
class Place:
    """A table of ``workflow.toml``."""

    file: str
    table: str
    """For example ``inputs.seed``."""

    def field(self, key: str) -> str:
        """The dotted name of one of its keys."""
        return f"{self.table}.{key}"

    def fail(self, code: str, message: str, key: str) -> NoReturn:
        """Reject the value of a key.

        Raises:
            WorkflowError: With this code.
        """
        raise WorkflowError(code, message, file=self.file, field=self.field(key))


def invalid_name(thing: str, name: object) -> str:
    """The message for an invalid name of an input, an output or a workflow."""
    return f"invalid {thing} name {name!r}: use snake_case, for example negative_prompt"


def key_of(location: tuple[int | str, ...]) -> str:
    """The dotted key of a Pydantic error, without its names for the branches of a union."""
    parts = [str(part) for part in location if part != "[key]"]
    while len(parts) > 1 and re.search(r"^(str|int|float|bool)$|\[", parts[-1]):
        parts.pop()
    return ".".join(parts)


_MODELS: dict[str, type[BaseModel]] = {
    "": WorkflowSpec,
    "inputs": InputSpec,
    "outputs": OutputSpec,
}
