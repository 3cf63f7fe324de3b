"""Jobs of the mock server: their scripted outcomes and their state."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar, cast

from pydantic_core import to_jsonable_python

from comfysnap_schema.base import WorkflowInput, WorkflowOutput, wire_inputs
from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    FileBySha256,
    FileByUrl,
    JobRecord,
    JobStatus,
    Lora,
    ModelUrl,
    Problem,
    Progress,
)

OutputT = TypeVar("OutputT", bound=WorkflowOutput)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The scripted outcome of one job."""

    status: JobStatus | None
    """None if the job runs until it is cancelled."""
    outputs: dict[str, Any] | None = None
    error: Problem | None = None
    progress: tuple[Progress, ...] = ()
    early: tuple[tuple[str, Any], ...] = ()
    """Outputs that are complete before the end; each is one step, after those of the progress."""
    seconds: float = 0.0


@dataclass(kw_only=True)
class Fault:
    """A failure of the next submits."""

    times: int
    status: int | None = None
    """None if the connection is dropped."""
    code: ErrorCode | str = ErrorCode.UNAVAILABLE
    retry_after: float | None = None
    delivered: bool = False
    """Whether the job is created although the response is lost."""


class Scenario(Generic[OutputT]):
    """The scripted behavior of one workflow: faults first, then one outcome per job.

    Outcomes are used in the order in which they were added; the last one repeats::

        server.on(FluxInput).answers(429).fails(ErrorCode.NODE_FAILED).succeeds(output)
    """

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.faults: list[Fault] = []
        self.delay: float = 0.0

    def succeeds(
        self,
        output: OutputT,
        *,
        progress: Sequence[Progress] = (),
        early: Sequence[str] = (),
        seconds: float = 0.0,
        after: Sequence[Progress] = (),
    ) -> Self:
        """The job succeeds with ``output``::

            server.on(FluxInput).succeeds(FluxOutput(images=[server.image()]))

        Args:
            output: The outputs; create files with ``MockServer.image`` or ``MockServer.file``.
            progress: Progress reported before the end.
            early: Names of outputs that are complete before the end, in this order.
            seconds: Duration of the job.
            after: Deprecated alias of ``progress``.

        Raises:
            KeyError: ``early`` names an output that ``output`` does not have.
        """
        outputs = output.model_dump(mode="json", by_alias=True, exclude_none=True)
        return self._add(
            Outcome(
                status=JobStatus.SUCCEEDED, outputs=outputs, progress=(*progress, *after),
                early=tuple((name, outputs[name]) for name in early), seconds=seconds,
            )
        )  # fmt: skip

    def fails(
        self,
        code: ErrorCode | str = ErrorCode.NODE_FAILED,
        detail: str = "a node failed",
        *,
        fields: Sequence[FieldProblem] = (),
        progress: Sequence[Progress] = (),
        early: Mapping[str, object] | None = None,
        status: JobStatus = JobStatus.FAILED,
        after: Sequence[Progress] = (),
    ) -> Self:
        """The job ends without success::

            server.on(FluxInput).fails(ErrorCode.OUT_OF_MEMORY)

        Args:
            code: The value of ``JobError.code``.
            detail: The message.
            fields: Problems of single input fields.
            progress: Progress reported before the end.
            early: Outputs that are complete before the end, by name; the job keeps them.
            status: ``failed``, ``cancelled``, ``timed_out`` or ``expired``.
            after: Deprecated alias of ``progress``.
        """
        problem = Problem(title=detail, detail=detail, code=code, fields=tuple(fields))
        return self._add(
            Outcome(
                status=status, error=problem, progress=(*progress, *after), early=_wire(early)
            )
        )  # fmt: skip

    def hangs(
        self,
        *,
        progress: Sequence[Progress] = (),
        early: Mapping[str, object] | None = None,
        after: Sequence[Progress] = (),
    ) -> Self:
        """The job runs until it is cancelled::

            server.on(FluxInput).hangs()

        Args:
            progress: Progress reported before it hangs.
            early: Outputs that are complete before it hangs, by name.
            after: Deprecated alias of ``progress``.
        """
        return self._add(Outcome(status=None, progress=(*progress, *after), early=_wire(early)))

    def with_delay(self, seconds: float) -> Self:
        """Every submit takes ``seconds``.

        Example: ``server.on(FluxInput).with_delay(0.1)``
        """
        self.delay = seconds
        return self

    def is_slow(self, seconds: float) -> Self:
        """Deprecated alias of ``with_delay``."""
        return self.with_delay(seconds)

    def drops_connections(self, times: int = 1, *, delivered: bool = False) -> Self:
        """The connections of the next submits are dropped::

            server.on(FluxInput).drops_connections(2, delivered=True)

        Args:
            times: Number of attempts.
            delivered: Whether the server received the submit and created the job.
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
        """The next submits are rejected with an HTTP status::

            server.on(FluxInput).answers(429, ErrorCode.RATE_LIMITED)

        Args:
            status: The HTTP status.
            code: The value of ``APIError.code``.
            times: Number of attempts.
            retry_after: Value of ``Retry-After`` in seconds. None omits the header.
        """
        self.faults.append(Fault(times=times, status=status, code=code, retry_after=retry_after))
        return self

    def _add(self, outcome: Outcome) -> Self:
        self.outcomes.append(outcome)
        return self


def _wire(outputs: Mapping[str, object] | None) -> tuple[tuple[str, Any], ...]:
    return tuple((name, to_jsonable_python(value)) for name, value in (outputs or {}).items())


def next_outcome(scenario: Scenario[Any]) -> Outcome:
    """The outcome of the next job.

    Raises:
        AssertionError: The test has not set one.
    """
    if not scenario.outcomes:
        raise AssertionError("no outcome set; call server.on(...).succeeds(...) first")
    return scenario.outcomes.pop(0) if len(scenario.outcomes) > 1 else scenario.outcomes[0]


def next_fault(scenario: Scenario[Any]) -> Fault | None:
    """The fault of the next submit, or None."""
    while scenario.faults and scenario.faults[0].times == 0:
        del scenario.faults[0]
    if scenario.faults:
        scenario.faults[0].times -= 1
        return scenario.faults[0]
    return None


@dataclass(kw_only=True)
class MockJob:
    """A job, which advances by one step per status request once the time has come."""

    id: str
    workflow: str
    inputs: WorkflowInput[Any]
    outcome: Outcome
    labels: dict[str, str] = field(default_factory=dict[str, str])
    step: int = 0
    """0 is queued, then one step per progress and per early output, then final."""
    cancelled: bool = False
    started: float = field(default_factory=time.monotonic)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def last_step(self) -> int:
        """The final step."""
        return len(self.outcome.progress) + len(self.outcome.early) + 1

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.cancelled or (self.outcome.status is not None and self.step >= self.last_step)

    def advance(self) -> bool:
        """Take the next step, if there is one and the time has come."""
        due = self.outcome.seconds * (self.step + 1) / self.last_step
        blocked = self.outcome.status is None and self.step + 1 >= self.last_step
        if self.is_final or blocked or time.monotonic() - self.started < due:
            return False
        self.step += 1
        return True

    def record(self, step: int | None = None) -> JobRecord:
        """The job's record, now or at an earlier step."""
        at = self.step if step is None else step
        ended = at == self.step and self.is_final
        status = JobStatus.RUNNING if at else JobStatus.QUEUED
        if ended:
            status = (not self.cancelled and self.outcome.status) or JobStatus.CANCELLED
        reported = self.outcome.progress[:at]
        early = dict(self.outcome.early[: max(0, at - len(self.outcome.progress))])
        succeeded = status == JobStatus.SUCCEEDED
        outputs = self.outcome.outputs if succeeded else early or None
        done = Progress(fraction=1.0) if succeeded else Progress()
        return JobRecord(
            id=self.id, workflow=self.workflow, status=status,
            version=at + (self.last_step if self.cancelled and ended else 0) + 1,
            attempt=min(at, 1), progress=reported[-1] if reported and not succeeded else done,
            outputs=outputs, error=self._error() if ended else None,
            inputs=_public(self.inputs), labels=self.labels, created_at=self.created_at,
            finished_at=datetime.now(UTC) if ended else None,
        )  # fmt: skip

    def _error(self) -> Problem | None:
        if self.cancelled:
            return Problem(title="The job was cancelled", code=ErrorCode.JOB_CANCELLED)
        return self.outcome.error


def _public(inputs: WorkflowInput[Any]) -> dict[str, Any]:
    """The inputs as shown in a job's record, without inline data."""
    return {name: _public_value(value) for name, value in wire_inputs(inputs).items()}


def _public_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_public_value(item) for item in cast("list[Any]", value)]
    if isinstance(value, (FileBySha256, FileByUrl, Lora, ModelUrl)):
        return value.model_dump()
    is_plain = value is None or isinstance(value, (str, int, float, bool, dict))
    return cast("Any", value) if is_plain else {"sha256": "0" * 64}
