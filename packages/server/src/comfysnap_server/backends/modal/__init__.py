"""Jobs on Modal: records in a Dict, files on a Volume."""

from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.cloud import (
    DictRecords,
    FunctionCalls,
    FunctionFetcher,
    Patience,
    QueueFeed,
    VolumeFolder,
)
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.remote_models import Wanted, WorkerModels, fetch_into
from comfysnap_server.backends.modal.runner import JobRunner

__all__ = [
    "DictRecords",
    "FunctionCalls",
    "FunctionFetcher",
    "JobRunner",
    "ModalBackend",
    "Patience",
    "Platform",
    "QueueFeed",
    "VolumeFolder",
    "Wanted",
    "WorkerModels",
    "fetch_into",
]
