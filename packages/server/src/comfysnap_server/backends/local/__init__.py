"""Jobs on this machine: SQLite, and one worker process."""

from comfysnap_server.backends.local.backend import LocalBackend
from comfysnap_server.backends.local.limits import LocalLimits
from comfysnap_server.backends.local.migrations import DataFolderError, back_up
from comfysnap_server.backends.local.purge import open_purge
from comfysnap_server.backends.local.store import DATABASE
from comfysnap_server.backends.local.webhook_rows import list_webhooks, resend_webhook

__all__ = [
    "DATABASE",
    "DataFolderError",
    "LocalBackend",
    "LocalLimits",
    "back_up",
    "list_webhooks",
    "open_purge",
    "resend_webhook",
]
