"""An API parameter with everything known about it: the map, the graph and the node catalogue."""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from comfysnap_schema.comfy import InputPath
from comfysnap_schema.wire import Kind

ParameterType = Literal["string", "integer", "number", "boolean", "file", "json"]

RANDOM_BELOW = 2**53
"""Random draws stay below this, so that JavaScript clients keep them exact."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One API parameter of a workflow."""

    name: str
    type: ParameterType
    paths: tuple[InputPath, ...] = ()
    bypass: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    required: bool = False
    default: JsonValue = None
    """None with ``required=False``: the graph's own value stays."""
    minimum: int | float | None = None
    maximum: int | float | None = None
    multiple_of: int | float | None = None
    choices: tuple[str | int | float | bool, ...] | None = None
    multiline: bool = False
    max_length: int | None = None
    random: bool = False
    kind: Kind | None = None
    """Set for ``type == "file"``."""

    @property
    def nullable(self) -> bool:
        """Whether null means the same as leaving it out: nothing else would stand in its place."""
        return not self.required and self.default is None
