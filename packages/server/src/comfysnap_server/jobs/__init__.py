"""One job from its request to its outcome, the same on every backend."""

from comfysnap_server.jobs.endings import ENDINGS, Ending, problem
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy, resolve_address
from comfysnap_server.jobs.fetch import fetch as fetch_file
from comfysnap_server.jobs.files import FileStore, find_output
from comfysnap_server.jobs.log import log_end
from comfysnap_server.jobs.output_store import (
    OutputStore,
    OutputStoreError,
    OutputStoreSettings,
    keep_outputs,
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

__all__ = [
    "ENDINGS",
    "REMOTE_FOLDER",
    "WORK",
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
    "ended",
    "execute",
    "fetch_file",
    "find_output",
    "keep_outputs",
    "log_end",
    "problem",
    "resolve_address",
]
