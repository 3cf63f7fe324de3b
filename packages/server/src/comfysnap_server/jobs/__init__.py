"""What both backends do with a job: its input files, its run, its outputs."""

from comfysnap_server.jobs.fetch import FetchPolicy
from comfysnap_server.jobs.files import FileStore
from comfysnap_server.jobs.run import Outcome, execute, problem
from comfysnap_server.jobs.stage import InputUnavailableError, materialise

__all__ = [
    "FetchPolicy",
    "FileStore",
    "InputUnavailableError",
    "Outcome",
    "execute",
    "materialise",
    "problem",
]
