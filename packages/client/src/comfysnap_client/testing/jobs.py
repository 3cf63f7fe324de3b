"""Jobs of the mock server: what they will do, and how far they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

from comfysnap_schema.base import WorkflowInput, WorkflowOutput, wire_inputs
from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    FileBySha256,
    FileByUrl,
    JobRecord,
    JobStatus,
    Problem,
    Progress,
)

O = TypeVar("O", bound=WorkflowOutput)  # noqa: E741 -- the output, as in every signature here


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one job will do."""

    status: JobStatus | None
    """None: it never ends by itself."""
    outputs: dict[str, Any] | None = None
    error: Problem | None = None
    after: tuple[Progress, ...] = ()
    seconds: float = 0.0


@dataclass(kw_only=True)
class Fault:
    """What happens to the next submits instead of an answer."""

    times: int
    status: int | None = None
    """None: the connection breaks."""
    code: ErrorCode | str = ErrorCode.UNAVAILABLE
    retry_after: float | None = None
    delivered: bool = False
    """The job is made although the answer is lost."""


class Scenario(Generic[O]):
    """What submits of one workflow meet: faults first, then one outcome a job.

    Outcomes are used in the order in which they were told; the last one stays.
    """

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []
        self.faults: list[Fault] = []
        self.delay: float = 0.0

    def succeeds(self, output: O, *, after: Sequence[Progress] = (), seconds: float = 0.0) -> Self:
        """The job ends with ``output``.

        Args:
            output: What it hands back; make its files with ``MockServer.image`` or ``file``.
            after: Progress told on the way.
            seconds: How long the job takes.
        """
        return self._add(
            Outcome(
                status=JobStatus.SUCCEEDED, outputs=output.model_dump(mode="json", by_alias=True),
                after=tuple(after), seconds=seconds,
            )
        )  # fmt: skip

    def fails(
        self,
        code: ErrorCode | str = ErrorCode.NODE_FAILED,
        detail: str = "a node failed",
        *,
        fields: Sequence[FieldProblem] = (),
        after: Sequence[Progress] = (),
        status: JobStatus = JobStatus.FAILED,
    ) -> Self:
        """The job ends without a result.

        Args:
            code: What ``JobError.code`` will be.
            detail: One sentence.
            fields: Findings by input field.
            after: Progress told on the way.
            status: ``failed``, ``cancelled``, ``timed_out`` or ``expired``.
        """
        problem = Problem(title=detail, detail=detail, code=code, fields=tuple(fields))
        return self._add(Outcome(status=status, error=problem, after=tuple(after)))

    def hangs(self, *, after: Sequence[Progress] = ()) -> Self:
        """The job runs until it is cancelled.

        Args:
            after: Progress told before it hangs.
        """
        return self._add(Outcome(status=None, after=tuple(after)))

    def is_slow(self, seconds: float) -> Self:
        """Every submit is answered after ``seconds``."""
        self.delay = seconds
        return self

    def drops_connections(self, times: int = 1, *, delivered: bool = False) -> Self:
        """The next submits break off.

        Args:
            times: How many attempts.
            delivered: Whether they reached the server, which then made the job.
        """
        self.faults.append(Fault(times=times, delivered=delivered))
        return self

    def answers(
        self,
        status: int,
        code: ErrorCode | str = ErrorCode.UNAVAILABLE,
        *,
        times: int = 1,
        retry_after: float | None = 0,
    ) -> Self:
        """The next submits are refused with an HTTP status, 429 for instance.

        Args:
            status: The HTTP status.
            code: What ``APIError.code`` will be.
            times: How many attempts.
            retry_after: Seconds told in ``Retry-After``; None: no such header.
        """
        self.faults.append(Fault(times=times, status=status, code=code, retry_after=retry_after))
        return self

    def next_outcome(self) -> Outcome:
        """The outcome of the next job.

        Raises:
            AssertionError: The test told none.
        """
        if not self._outcomes:
            raise AssertionError("tell what jobs do first: server.on(...).succeeds(...)")
        return self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]

    def next_fault(self) -> Fault | None:
        """The fault of the next submit, or None."""
        while self.faults and self.faults[0].times == 0:
            del self.faults[0]
        if self.faults:
            self.faults[0].times -= 1
            return self.faults[0]
        return None

    def _add(self, outcome: Outcome) -> Self:
        self._outcomes.append(outcome)
        return self


@dataclass(kw_only=True)
class MockJob:
    """A job; time and looks move it on, one step a look."""

    id: str
    workflow: str
    inputs: WorkflowInput[Any]
    outcome: Outcome
    labels: dict[str, str] = field(default_factory=dict[str, str])
    step: int = 0
    """0 queued, then one for each progress, then final."""
    cancelled: bool = False
    started: float = field(default_factory=time.monotonic)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def last_step(self) -> int:
        """The step that is final."""
        return len(self.outcome.after) + 1

    @property
    def is_final(self) -> bool:
        """Whether the job ended."""
        return self.cancelled or (self.outcome.status is not None and self.step >= self.last_step)

    def advance(self) -> bool:
        """Take the next step if there is one and its time has come."""
        due = self.outcome.seconds * (self.step + 1) / self.last_step
        blocked = self.outcome.status is None and self.step + 1 >= self.last_step
        if self.is_final or blocked or time.monotonic() - self.started < due:
            return False
        self.step += 1
        return True

    def record(self, step: int | None = None) -> JobRecord:
        """The job as the wire tells it, now or as it was at an earlier step."""
        at = self.step if step is None else step
        ended = at == self.step and self.is_final
        status = JobStatus.RUNNING if at else JobStatus.QUEUED
        if ended:
            status = (not self.cancelled and self.outcome.status) or JobStatus.CANCELLED
        outputs = self.outcome.outputs if status == JobStatus.SUCCEEDED else None
        told = self.outcome.after[:at]
        done = Progress(fraction=1.0) if outputs is not None else Progress()
        return JobRecord(
            id=self.id, workflow=self.workflow, status=status,
            version=at + (self.last_step if self.cancelled and ended else 0) + 1,
            attempt=min(at, 1), progress=told[-1] if told and not outputs else done,
            outputs=outputs, error=self._error() if ended else None,
            inputs=_told(self.inputs), labels=self.labels, created_at=self.created_at,
            finished_at=datetime.now(UTC) if ended else None,
        )  # fmt: skip

    def _error(self) -> Problem | None:
        if self.cancelled:
            return Problem(title="The job was cancelled", code=ErrorCode.JOB_CANCELLED)
        return self.outcome.error


def _told(inputs: WorkflowInput[Any]) -> dict[str, Any]:
    """The inputs as a job tells them: never inline data."""
    wire = wire_inputs(inputs)
    for name, value in wire.items():
        if isinstance(value, (FileBySha256, FileByUrl)):
            wire[name] = value.model_dump()
        elif not isinstance(value, (str, int, float, bool, list, dict)):
            wire[name] = {"sha256": "0" * 64}
    return wire
