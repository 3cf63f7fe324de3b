"""Finds the files of finished jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from comfysnap_schema.errors import ErrorCode
from comfysnap_server.backends.local.store import StoredJob
from comfysnap_server.backends.protocol import BackendError, StoredFile


def find_output(job: StoredJob, folder: Path, name: str) -> StoredFile:
    """The file called ``name``; only one that the job told of, so a name is never a path.

    Raises:
        BackendError: ``unknown_output``, or ``output_expired`` when it was deleted.
    """
    told = next((file for file in told_files(job.record.outputs) if file["name"] == name), None)
    if told is None:
        raise BackendError(ErrorCode.UNKNOWN_OUTPUT, f"the job made no file {name!r}")
    path = folder / name
    if job.outputs_gone or not path.is_file():
        raise BackendError(ErrorCode.OUTPUT_EXPIRED, f"{name} is past its retention")
    return StoredFile(
        path=path,
        content_type=str(told["content_type"]),
        size=cast("int", told["size"]),
        sha256=str(told["sha256"]),
    )


def told_files(outputs: dict[str, JsonValue] | None) -> Iterator[dict[str, JsonValue]]:
    """The files among a job's outputs."""
    for value in (outputs or {}).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and {"name", "sha256", "content_type", "size"} <= set(item):
                yield item
