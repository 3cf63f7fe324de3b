"""Jobs on Modal: records in a Dict, files on a Volume."""

from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.cloud import (
    DictRecords,
    FunctionCalls,
    Patience,
    QueueFeed,
    VolumeFolder,
)
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.runner import JobRunner
from comfysnap_server.backends.modal.webhooks import JobWebhooks, WebhookDeliveries

__all__ = [
    "DictRecords",
    "FunctionCalls",
    "JobRunner",
    "JobWebhooks",
    "ModalBackend",
    "Patience",
    "Platform",
    "QueueFeed",
    "VolumeFolder",
    "WebhookDeliveries",
]
