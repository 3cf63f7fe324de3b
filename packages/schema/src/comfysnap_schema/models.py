"""The names that generated modules import: a surface that older generated code relies on."""

from pydantic import Field, JsonValue

from comfysnap_schema.base import BigInt, NoBool, OneOf, WorkflowInput, WorkflowOutput
from comfysnap_schema.wire import (
    AnimationFile,
    AudioFile,
    FileInput,
    ImageFile,
    Lora,
    LoraLimits,
    Model3DFile,
    ModelInput,
    ModelUrl,
    OutputFile,
    VideoFile,
)

__all__ = [
    "AnimationFile",
    "AudioFile",
    "BigInt",
    "Field",
    "FileInput",
    "ImageFile",
    "JsonValue",
    "Lora",
    "LoraLimits",
    "Model3DFile",
    "ModelInput",
    "ModelUrl",
    "NoBool",
    "OneOf",
    "OutputFile",
    "VideoFile",
    "WorkflowInput",
    "WorkflowOutput",
]
