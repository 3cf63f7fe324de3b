"""Finds the files of finished jobs."""

from pathlib import Path

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.backends.local.store import StoredJob
from comfysnap_server.backends.protocol import BackendError, StoredFile
from comfysnap_server.engine.outputs import output_files


def find_output(job: StoredJob, folder: Path, name: str) -> StoredFile:
    """The file called ``name``; only one in the job's record, so a name is never a path.

    Raises:
        BackendError: ``unknown_output``, or ``output_expired`` when it was deleted.
    """
    files = output_files(job.record.id, job.record.outputs or {})
    known = next((file for file in files if file.name == name), None)
    if known is None:
        raise BackendError(ErrorCode.UNKNOWN_OUTPUT, f"unknown output {name!r}")
    path = folder / name
    if job.outputs_gone or not path.is_file():
        raise BackendError(ErrorCode.OUTPUT_EXPIRED, f"{name} is past its retention")
    return StoredFile(
        path=path, content_type=known.content_type, size=known.size, sha256=known.sha256
    )
