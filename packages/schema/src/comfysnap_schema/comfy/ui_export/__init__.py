"""The editor's own format, converted to an API graph."""

from comfysnap_schema.comfy.ui_export.convert import read_export
from comfysnap_schema.comfy.ui_export.knowledge import (
    Drawing,
    ModelSource,
    ShownWidget,
    read_drawing,
)
from comfysnap_schema.comfy.ui_export.packs import UsedPack

__all__ = [
    "Drawing",
    "ModelSource",
    "ShownWidget",
    "UsedPack",
    "read_drawing",
    "read_export",
]
