"""One job from its request to its outcome, the same on every backend."""

from comfysnap_server.jobs.endings import ENDINGS, Ending
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy
from comfysnap_server.jobs.fetch import fetch as fetch_file
from comfysnap_server.jobs.files import FileStore, find_output
from comfysnap_server.jobs.request import JobRequest
from comfysnap_server.jobs.run import JobEnd, JobRun, Outcome, ended, execute
from comfysnap_server.jobs.threads import in_thread
from comfysnap_server.jobs.webhook_sender import WebhookSender
from comfysnap_server.jobs.webhooks import (
    SECRET_VARIABLE,
    Delivery,
    WebhookPolicy,
    WebhookSettings,
    webhook_keys,
)

__all__ = [
    "ENDINGS",
    "SECRET_VARIABLE",
    "Delivery",
    "Ending",
    "FetchError",
    "FetchPolicy",
    "FileStore",
    "JobEnd",
    "JobRequest",
    "JobRun",
    "Outcome",
    "WebhookPolicy",
    "WebhookSender",
    "WebhookSettings",
    "ended",
    "execute",
    "fetch_file",
    "find_output",
    "in_thread",
    "webhook_keys",
]
