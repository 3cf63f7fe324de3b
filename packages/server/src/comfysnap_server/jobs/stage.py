"""Puts the input files of a job where its graph looks for them."""

import shutil
from collections.abc import Callable
from pathlib import Path

from comfysnap_schema.comfy import InputPath
from comfysnap_schema.wire import ErrorCode, FieldProblem, FileByUrl, Problem
from comfysnap_server.backends.protocol import BackendError, JobRequest
from comfysnap_server.jobs.fetch import FetchError, FetchPolicy, fetch
from comfysnap_server.jobs.files import FileStore


class InputUnavailableError(Exception):
    """An input file of the job cannot be had."""

    def __init__(self, field: str | None, detail: str) -> None:
        message = f"{field}: {detail}" if field else detail
        self.problem = Problem(
            title="Input unavailable",
            code=ErrorCode.INPUT_UNAVAILABLE,
            detail=message,
            fields=(FieldProblem(field=field, message=detail),),
        )
        super().__init__(message)


def stage_inputs(
    request: JobRequest,
    store: FileStore,
    folder: Path,
    policy: FetchPolicy,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Copy stored files into ``folder`` and download the others there, under the names that the
    graph uses. Copies, because a node may write to its input.

    Raises:
        InputUnavailableError: A file is gone, or its address cannot be fetched.
    """
    for name, file in request.files.items():
        target = folder / name
        if target.parent != folder:
            raise InputUnavailableError(_field(request, name), "the file name is not allowed")
        try:
            if isinstance(file, FileByUrl):
                fetch(file.url, target, policy, stop=stop)
            else:
                shutil.copyfile(store.path(request.owner, file.sha256), target)
        except (FetchError, BackendError) as error:
            raise InputUnavailableError(_field(request, name), str(error)) from error
        except OSError as error:  # whose text names folders of the server
            reason = error.strerror or type(error).__name__
            raise InputUnavailableError(_field(request, name), reason) from error


def _field(request: JobRequest, name: str) -> str | None:
    """The API field that the file came with."""
    for node, entry in request.graph.items():
        for key, value in entry["inputs"].items():
            field = request.fields.get(str(InputPath(node, key)))
            if value == name and field is not None:
                return field
    return None
