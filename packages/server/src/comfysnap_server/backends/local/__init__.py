"""Jobs on this machine: SQLite, and one worker process."""

from comfysnap_server.backends.local.backend import LocalBackend
from comfysnap_server.backends.local.limits import LocalLimits
from comfysnap_server.backends.local.migrations import DataFolderError

__all__ = ["DataFolderError", "LocalBackend", "LocalLimits"]
