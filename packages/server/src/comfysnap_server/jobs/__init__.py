"""One job from its request to its outcome, the same on every backend."""

from comfysnap_server.jobs.endings import ENDINGS, Ending, problem
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy, resolve_address
from comfysnap_server.jobs.fetch import fetch as fetch_file
from comfysnap_server.jobs.files import FileStore, find_output
from comfysnap_server.jobs.request import REMOTE_FOLDER, JobRequest, RemoteModel
from comfysnap_server.jobs.run import JobEnd, JobRun, Outcome, ended, execute

__all__ = [
    "ENDINGS",
    "REMOTE_FOLDER",
    "Ending",
    "FetchError",
    "FetchPolicy",
    "FileStore",
    "JobEnd",
    "JobRequest",
    "JobRun",
    "Outcome",
    "RemoteModel",
    "ended",
    "execute",
    "fetch_file",
    "find_output",
    "problem",
    "resolve_address",
]
