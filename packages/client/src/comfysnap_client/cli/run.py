"""The implementation of the commands."""

import asyncio
import errno
import json as jsonlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from comfysnap_client.cli.inputs import InvalidArguments, parse_inputs
from comfysnap_client.cli.show import ProgressBar, job_lines, problem_lines
from comfysnap_client.client import Client
from comfysnap_client.downloads import safe_name
from comfysnap_client.dynamic import UntypedOutput, untyped
from comfysnap_client.errors import (
    APIError,
    ComfysnapError,
    ConnectionFailed,
    DeadlineExceeded,
    DownloadFailed,
    InvalidInput,
    JobError,
    JobExpired,
    JobTimedOut,
    NotFound,
    Unauthorized,
    UnexpectedResponse,
    job_id_of,
    with_job,
)
from comfysnap_client.job import Job
from comfysnap_client.retry import RetryPolicy
from comfysnap_client.transport import NOT_CONNECTED
from comfysnap_schema.wire import JobRecord, JobStatus, Progress, WorkflowDetail

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 130

RETRY = RetryPolicy(attempts=4, budget=20.0)
"""Shorter than the default: a person is waiting for the error."""
_NO_KEY = "set COMFYSNAP_API_KEY, or MODAL_KEY and MODAL_SECRET"
_WRONG_KEY = (
    "the server does not accept the key in COMFYSNAP_API_KEY; to create one, run"
    " `comfysnap keys add NAME` where the server runs"
)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of the commands that save outputs."""

    out: Path
    json: bool


@dataclass(frozen=True, kw_only=True)
class InferOptions(OutputOptions):
    """Options of ``infer``."""

    workflow: str
    pairs: Sequence[str]
    timeout: float
    wait: bool
    labels: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Options of ``jobs``."""

    status: JobStatus | None
    workflow: str | None
    labels: Sequence[str]
    limit: int


def run(
    url: str,
    timeout: float,
    work: Callable[[Client], Awaitable[None]],
    *,
    cancels: bool = False,
) -> int:
    """Run a command; print its errors to stderr and return the exit code.

    Args:
        url: URL of the server.
        timeout: Seconds for each call of the client.
        work: The command.
        cancels: Whether interrupting the command cancels its job.
    """

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- asyncio.run runs this in a task
        with suppress(NotImplementedError):  # not supported by the event loop of Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with Client.from_env(base_url=url, timeout=timeout, retry=RETRY) as client:
            await work(client)

    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        job_id = job_id_of(error)
        if job_id and cancels:
            return print_error(INTERRUPTED, f"cancelled {job_id}")
        return print_error(INTERRUPTED, "interrupted", *([_resume_hint(job_id)] if job_id else []))
    except InvalidArguments as error:
        return print_error(USAGE, *(f"{one.field}: {one.message}" for one in error.fields))
    except ComfysnapError as error:
        return report(error)
    except ValueError as error:
        return print_error(USAGE, str(error))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        job_id = job_id_of(error)
        return print_error(USAGE, message, *([_resume_hint(job_id)] if job_id else []))
    return 0


async def infer(client: Client, options: InferOptions) -> None:
    """Submit, wait, save."""
    with ProgressBar() as bar:
        bar.status("fetching the workflow")
        name = options.workflow or await _default_workflow(client)
        detail = await client.workflow(name)
        inputs = parse_inputs(options.pairs, detail.input_schema)
        if options.wait:  # before paying for a GPU
            await asyncio.to_thread(_prepare_folder, options.out)
        bar.status("submitting")
        job = await client.infer_async(
            untyped(name, inputs), job_timeout=options.timeout if options.wait else None,
            labels=_labels(options.labels),
        )  # fmt: skip
        files = (
            await _follow(job, bar, options, options.timeout, cancel=True) if options.wait else []
        )
    if options.wait:
        record = await job.wait()
        _print_result(record, files, json=options.json)
        if not options.json:
            _print_drawn(record, detail, inputs)
    else:
        print(job.record.model_dump_json() if options.json and job.record else job.id)


async def result(client: Client, job_id: str, options: OutputOptions, timeout: float) -> None:
    """Wait for an existing job, save."""
    job = client.job(job_id)
    await job.status()
    with ProgressBar() as bar:
        files = await _follow(job, bar, options, timeout, cancel=False)
    _print_result(await job.wait(), files, json=options.json)


async def status(client: Client, job_id: str, *, json: bool) -> None:
    """Print the state of a job."""
    _print_job(await client.check_status(job_id), json=json)


async def cancel(client: Client, job_id: str, *, json: bool) -> None:
    """Request cancellation of a job."""
    _print_job(await client.cancel(job_id), json=json)


async def jobs(client: Client, filters: JobFilter, *, json: bool) -> None:
    """Print a list of jobs."""
    found: list[JobRecord] = []
    listed = client.jobs(
        status=filters.status, workflow=filters.workflow, labels=_labels(filters.labels)
    )
    async with aclosing(listed) as records:
        async for record in records:
            found.append(record)
            if len(found) == filters.limit:
                break
    if json:
        print(jsonlib.dumps([record.model_dump(mode="json") for record in found]))
        return
    for record in found:
        print(f"{record.id}  {record.created_at:%Y-%m-%d %H:%M:%S}  {record.status:10}"
              f"  {record.workflow}")  # fmt: skip


async def limits(client: Client, *, json: bool) -> None:
    """Print what the key may do and use."""
    found = await client.limits()
    if json:
        print(found.model_dump_json())
        return
    print(f"owner {found.owner}, key {found.key or '-'}, scopes {', '.join(found.scopes)}")
    for name, budget in found.budgets.items():
        used = "-" if budget.used is None else budget.used
        most = "unlimited" if budget.limit is None else budget.limit
        reset = f", all back in {budget.reset_s:.0f} s" if budget.reset_s else ""
        print(f"{name}: {used} of {most}{reset}")
    print(f"largest file: {found.max_file_bytes} bytes; longest job: {found.max_timeout:g} s")


async def _follow(
    job: Job[UntypedOutput],
    bar: ProgressBar,
    options: OutputOptions,
    timeout: float,
    *,
    cancel: bool,
) -> list[Path]:
    """Wait with a progress bar, then save the files."""

    def show(progress: Progress) -> None:
        bar.progress(progress, str(job.record.status) if job.record else "")

    output = await job.result(timeout=timeout, cancel_on_timeout=cancel, on_progress=show)
    bar.status("saving")
    files = list(output.files())
    try:
        if files:
            await asyncio.to_thread(_prepare_folder, options.out)
        return [await file.save(free_path(options.out, file.name)) for file in files]
    except OSError as error:
        with_job(error, job.id)
        raise


def _prepare_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def free_path(folder: Path, name: str) -> Path:
    """Return a path in the folder that does not exist yet."""
    first = path = folder / safe_name(name)
    number = 0
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    return path


async def _default_workflow(client: Client) -> str:
    known = await client.workflows()
    for workflow in known:
        if workflow.default:
            return workflow.name
    names = ", ".join(workflow.name for workflow in known)
    raise ValueError(f"the server has no default workflow; choose one of: {names}")


def _labels(words: Sequence[str]) -> dict[str, str]:
    split = [word.partition(":") for word in words]
    if wrong := [word for word, colon, _ in split if not colon]:
        raise ValueError(f"a label must be KEY:VALUE, got {wrong[0]!r}")
    return {key: value for key, _, value in split}


def _print_job(record: JobRecord, *, json: bool) -> None:
    print(record.model_dump_json() if json else "\n".join(job_lines(record)))


def _print_result(record: JobRecord, files: Sequence[Path], *, json: bool) -> None:
    if json:
        data: dict[str, Any] = record.model_dump(mode="json")
        print(jsonlib.dumps({**data, "files": [str(path) for path in files]}))
        return
    for path in files:
        print(path)
    for name, value in (record.outputs or {}).items():
        if not _is_file(value):
            text = value if isinstance(value, str) else jsonlib.dumps(value)
            print(f"{name}: {text}")


def _print_drawn(record: JobRecord, detail: WorkflowDetail, given: Mapping[str, object]) -> None:
    """Print the values that the server drew, on stderr: stdout has the outputs alone."""
    properties = cast("dict[str, dict[str, Any]]", detail.input_schema.get("properties", {}))
    for name, value in record.inputs.items():
        if name not in given and properties.get(name, {}).get("x-random"):
            print(f"{name}={value} (drawn for this job)", file=sys.stderr)


def _is_file(value: object) -> bool:
    many = cast("list[object]", value) if isinstance(value, list) else [value]
    return any(isinstance(one, dict) and "sha256" in one for one in many)


def report(error: ComfysnapError) -> int:
    """Print an error to stderr, with what may help; return the exit code."""
    problem = error.problem if isinstance(error, (APIError, JobError)) else None
    lines = problem_lines(problem) if problem else [error.message]
    if isinstance(error, DeadlineExceeded) and isinstance(error.__cause__, ComfysnapError):
        lines.append(f"last attempt: {error.__cause__.message}")
    if isinstance(error, Unauthorized):
        is_wrong = error.status == 401 and os.environ.get("COMFYSNAP_API_KEY")
        lines.append(_WRONG_KEY if is_wrong else _NO_KEY)
    if isinstance(error, (ConnectionFailed, UnexpectedResponse)):
        lines.append("set the URL of the server with --url or COMFYSNAP_URL")
    if error.job_id and isinstance(error, (JobError, DeadlineExceeded)):
        lines.append(f"job {error.job_id}")
    elif error.job_id and isinstance(error, (ConnectionFailed, DownloadFailed)):
        lines.append(_resume_hint(error.job_id))
    if error.request_id and not isinstance(error.__cause__, NOT_CONNECTED):
        lines.append(f"request {error.request_id}")
    return print_error(_exit_code(error), *lines)


def _resume_hint(job_id: str) -> str:
    return f"to get the outputs of the job, run: comfysnap result {job_id}"


def _exit_code(error: ComfysnapError) -> int:
    if isinstance(error, (DeadlineExceeded, JobTimedOut, JobExpired)):
        return TIMED_OUT
    if isinstance(error, JobError):
        return FAILED
    if isinstance(error, (InvalidInput, NotFound)) or error.status in (400, 409, 413, 422):
        return USAGE
    return UNREACHABLE


def print_error(code: int, *lines: str) -> int:
    """Print lines to stderr, the first as the error; return the code."""
    first, *rest = lines
    print(f"error: {first}", *rest, sep="\n", file=sys.stderr)
    return code
