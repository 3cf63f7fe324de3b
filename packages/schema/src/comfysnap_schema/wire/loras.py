"""LoRAs that a caller adds to the model of a workflow."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from comfysnap_schema.wire.routes import SHA256_PATTERN

MAX_LORA_STRENGTH: Final = 100.0
"""The range of ComfyUI's LoRA loaders, in both directions."""
MAX_LORA_NAME: Final = 1024

_Strength = Annotated[
    float, Field(ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH, strict=True, allow_inf_nan=False)
]


class Lora(BaseModel, frozen=True, extra="forbid", defer_build=True):
    """A LoRA, and how strongly it changes the model.

    Example: ``Lora(name="style/ink.safetensors", strength=0.8)``
    """

    name: Annotated[str, Field(min_length=1, max_length=MAX_LORA_NAME, strict=True)] | None = None
    """A file below ComfyUI's ``models/loras``, for example ``style/ink.safetensors``."""
    url: Annotated[str, Field(pattern=r"^https?://", max_length=4096, strict=True)] | None = None
    """Instead of ``name``: of a safetensors file that the server downloads, as ``ModelUrl``."""
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN, strict=True)] | None = None
    """The expected hash of the file at ``url``."""
    strength: _Strength = 1.0
    clip_strength: _Strength | None = None
    """For the text encoder. Default: ``strength``."""

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        if (self.name is None) == (self.url is None):
            raise PydanticCustomError("lora_file", "set either name or url")
        if self.sha256 is not None and self.url is None:
            raise PydanticCustomError("lora_file", "sha256 is only allowed with url")
        return self

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LoraLimits:
    """Narrows what a ``Lora`` of one workflow may be."""

    minimum: float = -MAX_LORA_STRENGTH
    maximum: float = MAX_LORA_STRENGTH
    names: tuple[str, ...] | None = None
    """Those of its files that may be named."""
    urls: bool = True
    """Whether it may be a URL."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check after the type's own validation."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, lora: Lora) -> Lora:
        if lora.url is not None and not self.urls:
            raise PydanticCustomError("no_url", "a URL is not allowed here")
        if self.names is not None and lora.name is not None and lora.name not in self.names:
            raise PydanticCustomError(
                "one_of", "name should be one of {allowed}", {"allowed": ", ".join(self.names)}
            )
        for name in ("strength", "clip_strength"):
            value = getattr(lora, name)
            if value is not None and not self.minimum <= value <= self.maximum:
                raise PydanticCustomError(
                    "strength",
                    "{name} should be from {minimum} to {maximum}",
                    {"name": name, "minimum": self.minimum, "maximum": self.maximum},
                )
        return lora
