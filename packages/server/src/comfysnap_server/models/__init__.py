"""Model files: the list, their sources, downloads, and which workflows use them."""

from comfysnap_server.models.download import Stop
from comfysnap_server.models.entry import ModelEntry, is_safe_path
from comfysnap_server.models.remote_settings import CACHED_MODELS, RemoteModelSettings
from comfysnap_server.models.sources import ModelError
from comfysnap_server.models.storage import ModelsFolder, ModelStorage, ModelsVolume
from comfysnap_server.models.syncing import (
    Downloaded,
    DownloadProgress,
    Failed,
    SyncEvent,
    SyncOptions,
    SyncPlan,
    sync,
)
from comfysnap_server.models.usage import ModelReference, model_references, unused_files

__all__ = [
    "CACHED_MODELS",
    "DownloadProgress",
    "Downloaded",
    "Failed",
    "ModelEntry",
    "ModelError",
    "ModelReference",
    "ModelStorage",
    "ModelsFolder",
    "ModelsVolume",
    "RemoteModelSettings",
    "Stop",
    "SyncEvent",
    "SyncOptions",
    "SyncPlan",
    "is_safe_path",
    "model_references",
    "sync",
    "unused_files",
]
