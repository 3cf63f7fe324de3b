"""What both backends do with a job: its input files, its run, its outputs."""

from comfysnap_server.jobs.endings import ENDINGS, Ending
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy
from comfysnap_server.jobs.fetch import fetch as fetch_file
from comfysnap_server.jobs.files import FileStore
from comfysnap_server.jobs.run import Outcome, execute, failed
from comfysnap_server.jobs.stage import InputUnavailableError, stage_inputs

__all__ = [
    "ENDINGS",
    "Ending",
    "FetchError",
    "FetchPolicy",
    "FileStore",
    "InputUnavailableError",
    "Outcome",
    "execute",
    "failed",
    "fetch_file",
    "stage_inputs",
]
