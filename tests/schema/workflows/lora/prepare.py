"""Puts a LoraLoader between the checkpoint and everything that reads its model and its CLIP."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from comfysnap_schema.wire.errors import FieldProblem, InputError

CHECKPOINT = "4"
MODEL, CLIP = 0, 1


class Lora(BaseModel, extra="forbid"):
    """One entry of ``loras``."""

    name: Annotated[str, Field(pattern=r"^[\w .-]+$")]
    strength: float = 1.0


LORAS = TypeAdapter(list[Lora])


def prepare(graph: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Chain one loader for each entry of ``loras``."""
    readers = [
        (node["inputs"], name)
        for node in graph.values()
        for name, value in node["inputs"].items()
        if value in ([CHECKPOINT, MODEL], [CHECKPOINT, CLIP])
    ]
    source = CHECKPOINT
    for number, lora in enumerate(loras_of(inputs), start=1):
        node = f"lora_{number}"
        graph[node] = {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": lora.name,
                "strength_model": lora.strength,
                "strength_clip": lora.strength,
                "model": [source, MODEL],
                "clip": [source, CLIP],
            },
        }
        source = node
    for values, name in readers:
        values[name] = [source, values[name][1]]
    return graph


def loras_of(inputs: dict[str, Any]) -> list[Lora]:
    """The entries, checked."""
    try:
        return LORAS.validate_python(inputs.get("loras") or [])
    except ValidationError as error:
        message = 'must be a list of {"name": file name, "strength": number}'
        raise InputError((FieldProblem(field="loras", message=message),)) from error
