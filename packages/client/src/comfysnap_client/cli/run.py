"""What the commands do once their arguments are read."""

import asyncio
import errno
import json as jsonlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from comfysnap_client.cli.inputs import WrongInputs, parse_inputs
from comfysnap_client.cli.show import LiveJob, job_lines, problem_lines
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
from comfysnap_schema.wire import JobRecord, JobStatus

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 130

_RETRY = RetryPolicy(attempts=4, budget=20.0)
"""Someone watches: say soon that the server cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Where results go."""

    out: Path
    previews: bool | None
    json: bool


@dataclass(frozen=True, kw_only=True)
class InferOptions(Shown):
    """What ``infer`` was asked."""

    workflow: str
    pairs: Sequence[str]
    timeout: float
    wait: bool
    labels: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """What ``jobs`` was asked."""

    status: JobStatus | None
    workflow: str | None
    labels: Sequence[str]
    limit: int


def run(url: str, timeout: float, work: Callable[[Client], Awaitable[None]]) -> int:
    """Run a command; its errors become a few lines on stderr and the exit code."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- asyncio.run runs this in a task
        with suppress(NotImplementedError):  # Windows has no signal handlers in its loop
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with Client.from_env(base_url=url, timeout=timeout, retry=_RETRY) as client:
            await work(client)

    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        job_id = job_id_of(error)
        return _tell(INTERRUPTED, f"interrupted, job {job_id}" if job_id else "interrupted")
    except WrongInputs as error:
        return _tell(USAGE, *(f"{found.field}: {found.message}" for found in error.fields))
    except ComfysnapError as error:
        return _tell_error(error)
    except ValueError as error:
        return _tell(USAGE, str(error))
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        job_id = job_id_of(error)
        return _tell(USAGE, told, *([_still_there(job_id)] if job_id else []))
    return 0


async def infer(client: Client, options: InferOptions) -> None:
    """Submit, follow, save."""
    with LiveJob(previews=options.previews) as live:
        live.saying("reading the contract")
        name = options.workflow or await _default(client)
        detail = await client.workflow(name)
        inputs = parse_inputs(options.pairs, detail.input_schema)
        if options.wait:  # before a GPU is paid for
            await asyncio.to_thread(_prepare_folder, options.out)
        live.saying("sending")
        job = await client.infer_async(
            untyped(name, inputs), job_timeout=options.timeout if options.wait else None,
            labels=_labels(options.labels), previews=live.previews and options.wait,
        )  # fmt: skip
        files = (
            await _follow(job, live, options, options.timeout, cancel=True) if options.wait else []
        )
    if options.wait:
        _print_result(await job.wait(), files, json=options.json)
    else:
        print(job.record.model_dump_json() if options.json and job.record else job.id)


async def result(client: Client, job_id: str, shown: Shown, timeout: float) -> None:
    """Follow a job that exists, save."""
    job = client.job(job_id)
    await job.status()
    with LiveJob(previews=shown.previews) as live:
        files = await _follow(job, live, shown, timeout, cancel=False)
    _print_result(await job.wait(), files, json=shown.json)


async def status(client: Client, job_id: str, *, json: bool) -> None:
    """Tell how a job is doing."""
    _print_job(await client.check_status(job_id), json=json)


async def cancel(client: Client, job_id: str, *, json: bool) -> None:
    """Ask for a job to stop."""
    _print_job(await client.cancel(job_id), json=json)


async def jobs(client: Client, wanted: JobFilter, *, json: bool) -> None:
    """List jobs."""
    found: list[JobRecord] = []
    listed = client.jobs(
        status=wanted.status, workflow=wanted.workflow, labels=_labels(wanted.labels)
    )
    async with aclosing(listed) as records:
        async for record in records:
            found.append(record)
            if len(found) == wanted.limit:
                break
    if json:
        print(jsonlib.dumps([record.model_dump(mode="json") for record in found]))
        return
    for record in found:
        print(f"{record.id}  {record.created_at:%Y-%m-%d %H:%M:%S}  {record.status:10}"
              f"  {record.workflow}")  # fmt: skip


async def _follow(
    job: Job[UntypedOutput], live: LiveJob, shown: Shown, timeout: float, *, cancel: bool
) -> list[Path]:
    """Wait with a live bar, then save the files."""
    async with _shown_events(job, live):
        output = await job.result(timeout=timeout, cancel_on_timeout=cancel)
    live.saying("saving")
    files = list(output.files())
    try:
        if files:
            await asyncio.to_thread(_prepare_folder, shown.out)
        return [await file.save(free_path(shown.out, file.name)) for file in files]
    except OSError as error:
        with_job(error, job.id)
        raise


def _prepare_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@asynccontextmanager
async def _shown_events(job: Job[UntypedOutput], live: LiveJob) -> AsyncGenerator[None]:
    async def show() -> None:
        async with aclosing(job.events()) as events:
            async for event in events:
                live.event(event)

    task = asyncio.create_task(show())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def free_path(folder: Path, name: str) -> Path:
    """A path that does not write over what another job left there."""
    first = path = folder / safe_name(name)
    number = 0
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    return path


async def _default(client: Client) -> str:
    known = await client.workflows()
    for workflow in known:
        if workflow.default:
            return workflow.name
    names = ", ".join(workflow.name for workflow in known)
    raise ValueError(f"the server has no default workflow; name one of {names}")


def _labels(words: Sequence[str]) -> dict[str, str]:
    split = [word.partition(":") for word in words]
    if wrong := [word for word, colon, _ in split if not colon]:
        raise ValueError(f"a label is KEY:VALUE, not {wrong[0]!r}")
    return {key: value for key, _, value in split}


def _print_job(record: JobRecord, *, json: bool) -> None:
    print(record.model_dump_json() if json else "\n".join(job_lines(record)))


def _print_result(record: JobRecord, files: Sequence[Path], *, json: bool) -> None:
    if json:
        told: dict[str, Any] = record.model_dump(mode="json")
        print(jsonlib.dumps({**told, "files": [str(path) for path in files]}))
        return
    for path in files:
        print(path)
    for name, value in (record.outputs or {}).items():
        if not _is_file(value):
            text = value if isinstance(value, str) else jsonlib.dumps(value)
            print(f"{name}: {text}")


def _is_file(value: object) -> bool:
    many = cast("list[object]", value) if isinstance(value, list) else [value]
    return any(isinstance(one, dict) and "sha256" in one for one in many)


def _tell_error(error: ComfysnapError) -> int:
    problem = error.problem if isinstance(error, (APIError, JobError)) else None
    lines = problem_lines(problem) if problem else [error.message]
    if isinstance(error, DeadlineExceeded) and isinstance(error.__cause__, ComfysnapError):
        lines.append(f"the last try: {error.__cause__.message}")
    if isinstance(error, Unauthorized):
        lines.append("keys come from COMFYSNAP_API_KEY, or MODAL_KEY and MODAL_SECRET")
    if isinstance(error, (ConnectionFailed, UnexpectedResponse)):
        lines.append("--url or COMFYSNAP_URL is the address; 'comfysnap serve' starts a server")
    if error.job_id and isinstance(error, (JobError, DeadlineExceeded)):
        lines.append(f"job {error.job_id}")
    elif error.job_id and isinstance(error, (ConnectionFailed, DownloadFailed)):
        lines.append(_still_there(error.job_id))
    if error.request_id:
        lines.append(f"request {error.request_id}")
    return _tell(_exit_code(error), *lines)


def _still_there(job_id: str) -> str:
    return f"job {job_id}: 'comfysnap result {job_id}' asks again"


def _exit_code(error: ComfysnapError) -> int:
    if isinstance(error, (DeadlineExceeded, JobTimedOut, JobExpired)):
        return TIMED_OUT
    if isinstance(error, JobError):
        return FAILED
    if isinstance(error, (InvalidInput, NotFound)) or error.status in (400, 409, 413, 422):
        return USAGE
    return UNREACHABLE


def _tell(code: int, *lines: str) -> int:
    first, *rest = lines
    print(f"error: {first}", *rest, sep="\n", file=sys.stderr)
    return code
