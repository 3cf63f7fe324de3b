"""The log line of a job's end, the same on every backend."""

import logging
from typing import Final, Protocol

from comfysnap_schema.wire import JobStatus, Problem, Timings
from comfysnap_server.logs import fields

log: Final = logging.getLogger("comfysnap.jobs")


class _End(Protocol):
    @property
    def status(self) -> JobStatus | str: ...
    @property
    def error(self) -> Problem | None: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def attempt(self) -> int: ...


def log_end(job_id: str, owner: str, workflow: str, end: _End) -> None:
    """Log how a job ended; a warning unless it succeeded or was cancelled.

    Of an error only its code: its text may quote the prompt.
    """
    fine = end.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED)
    timings = end.timings
    log.log(
        logging.INFO if fine else logging.WARNING,
        "job ended",
        extra=fields(
            job=job_id,
            workflow=workflow,
            owner=owner,
            status=str(end.status),
            error=None if end.error is None else str(end.error.code),
            attempt=end.attempt,
            start=timings.start_kind,
            queue_seconds=timings.queue,
            start_seconds=timings.start,
            run_seconds=timings.run,
            device=timings.device,
        ),
    )
