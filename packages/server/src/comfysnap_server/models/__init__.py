"""Model files: the list, where they come from, how they are brought, who uses them."""

from comfysnap_server.models.folder import ModelsFolder
from comfysnap_server.models.listed import ModelEntry, is_safe_path, wrong
from comfysnap_server.models.sources import ModelError
from comfysnap_server.models.syncing import (
    Brought,
    Failed,
    Planned,
    Progressed,
    SyncEvent,
    SyncOptions,
    sync,
)
from comfysnap_server.models.usage import ModelReference, model_references, unused_files
from comfysnap_server.models.volume import ModelsPlace, ModelsVolume

__all__ = [
    "Brought",
    "Failed",
    "ModelEntry",
    "ModelError",
    "ModelReference",
    "ModelsFolder",
    "ModelsPlace",
    "ModelsVolume",
    "Planned",
    "Progressed",
    "SyncEvent",
    "SyncOptions",
    "is_safe_path",
    "model_references",
    "sync",
    "unused_files",
    "wrong",
]
