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
from comfysnap_server.backends.modal.history import JobHistory, KnownJob
from comfysnap_server.backends.modal.listing import list_name, listed_owners
from comfysnap_server.backends.modal.platform import Platform, Pools
from comfysnap_server.backends.modal.remote_models import Wanted, WorkerModels, fetch_into
from comfysnap_server.backends.modal.runner import WARM_UP_JOB, JobRunner
from comfysnap_server.backends.modal.webhooks import JobWebhooks, WebhookDeliveries

__all__ = [
    "WARM_UP_JOB",
    "DictRecords",
    "FunctionCalls",
    "FunctionFetcher",
    "JobHistory",
    "JobRunner",
    "JobWebhooks",
    "KnownJob",
    "ModalBackend",
    "Patience",
    "Platform",
    "Pools",
    "QueueFeed",
    "VolumeFolder",
    "Wanted",
    "WebhookDeliveries",
    "WorkerModels",
    "fetch_into",
    "list_name",
    "listed_owners",
]
