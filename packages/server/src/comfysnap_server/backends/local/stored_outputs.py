"""Finds the files of finished jobs."""

from pathlib import Path

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.backends.local.store import StoredJob
from comfysnap_server.backends.protocol import BackendError, StoredFile
from comfysnap_server.engine.outputs import output_files


def find_output(job: StoredJob, folder: Path, name: str) -> StoredFile:
    """The file called ``name``; only one that the job told of, so a name is never a path.

    Raises:
        BackendError: ``unknown_output``, or ``output_expired`` when it was deleted.
    """
    files = output_files(job.record.id, job.record.outputs or {})
    told = next((file for file in files if file.name == name), None)
    if told is None:
        raise BackendError(ErrorCode.UNKNOWN_OUTPUT, f"the job made no file {name!r}")
    path = folder / name
    if job.outputs_gone or not path.is_file():
        raise BackendError(ErrorCode.OUTPUT_EXPIRED, f"{name} is past its retention")
    return StoredFile(path=path, content_type=told.content_type, size=told.size, sha256=told.sha256)
