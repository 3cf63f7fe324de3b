"""One job from its request to its outcome, the same on every backend."""

from comfysnap_server.jobs.endings import ENDINGS, Ending, problem
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy, resolve_address
from comfysnap_server.jobs.fetch import fetch as fetch_file
from comfysnap_server.jobs.files import FileStore, file_chunks, find_output, output_bytes
from comfysnap_server.jobs.log import log_end
from comfysnap_server.jobs.output_store import (
    OutputStore,
    OutputStoreError,
    OutputStoreSettings,
    keep_outputs,
    open_output_store,
)
from comfysnap_server.jobs.request import REMOTE_FOLDER, JobRequest, RemoteModel
from comfysnap_server.jobs.run import (
    WORK,
    EarlyOutput,
    JobEnd,
    JobRun,
    Outcome,
    Report,
    ended,
    execute,
)
from comfysnap_server.jobs.threads import in_thread, opened
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
    "REMOTE_FOLDER",
    "SECRET_VARIABLE",
    "WORK",
    "Delivery",
    "EarlyOutput",
    "Ending",
    "FetchError",
    "FetchPolicy",
    "FileStore",
    "JobEnd",
    "JobRequest",
    "JobRun",
    "Outcome",
    "OutputStore",
    "OutputStoreError",
    "OutputStoreSettings",
    "RemoteModel",
    "Report",
    "WebhookPolicy",
    "WebhookSender",
    "WebhookSettings",
    "ended",
    "execute",
    "fetch_file",
    "file_chunks",
    "find_output",
    "in_thread",
    "keep_outputs",
    "log_end",
    "open_output_store",
    "opened",
    "output_bytes",
    "problem",
    "resolve_address",
    "webhook_keys",
]
