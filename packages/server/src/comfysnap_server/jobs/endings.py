"""Every way in which a job ends without succeeding, in one table for both backends."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from comfysnap_schema.wire import ErrorCode, JobStatus, Problem


class Ending(Enum):
    """Why a job ended."""

    CANCELLED = auto()
    INTERRUPTED = auto()
    """The engine was interrupted; the backend, which asked for it, knows why."""
    TIMED_OUT = auto()
    EXPIRED = auto()
    OUT_OF_MEMORY = auto()
    ENGINE_FAILED = auto()
    """The engine or its worker failed in an unforeseen way."""
    NOT_STARTED = auto()
    WORKER_LOST = auto()
    SERVER_STOPPED = auto()
    CALL_STOPPED = auto()
    NO_RESULT = auto()
    OUTPUT_NOT_STORED = auto()
    RESULT_EXPIRED = auto()
    INTERNAL = auto()


@dataclass(frozen=True)
class EndState:
    """What the job's record says then."""

    status: JobStatus
    code: ErrorCode
    detail: str

    def problem(self, detail: str | None = None) -> Problem:
        """The error of the job; ``detail`` replaces the table's sentence."""
        return problem(self.code, detail or self.detail)


def problem(code: ErrorCode, detail: str) -> Problem:
    """The error of a job."""
    return Problem(title=code.value.replace("_", " ").capitalize(), code=code, detail=detail)


_FAILED: Final = JobStatus.FAILED
_MODAL_LOG: Final = "its log: `modal app logs NAME`, with the name in comfysnap.toml"
ENDINGS: Final[Mapping[Ending, EndState]] = {
    Ending.CANCELLED: EndState(
        JobStatus.CANCELLED, ErrorCode.JOB_CANCELLED, "the job was cancelled"
    ),
    Ending.INTERRUPTED: EndState(
        JobStatus.CANCELLED, ErrorCode.JOB_CANCELLED, "the job was stopped before it finished"
    ),
    Ending.TIMED_OUT: EndState(
        JobStatus.TIMED_OUT, ErrorCode.JOB_TIMED_OUT, "the job ran longer than its timeout"
    ),
    Ending.EXPIRED: EndState(
        JobStatus.EXPIRED, ErrorCode.JOB_EXPIRED, "the job did not start in time"
    ),
    Ending.OUT_OF_MEMORY: EndState(
        _FAILED, ErrorCode.OUT_OF_MEMORY, "the machine ran out of memory"
    ),
    Ending.ENGINE_FAILED: EndState(_FAILED, ErrorCode.ENGINE_FAILED, "the engine failed"),
    Ending.NOT_STARTED: EndState(
        _FAILED, ErrorCode.ENGINE_FAILED, f"the worker could not start; {_MODAL_LOG}"
    ),
    Ending.WORKER_LOST: EndState(_FAILED, ErrorCode.WORKER_LOST, "the container was lost"),
    Ending.SERVER_STOPPED: EndState(
        _FAILED, ErrorCode.WORKER_LOST, "the server stopped while the job ran"
    ),
    Ending.CALL_STOPPED: EndState(
        _FAILED, ErrorCode.WORKER_LOST, "the call was stopped from outside"
    ),
    Ending.NO_RESULT: EndState(_FAILED, ErrorCode.WORKER_LOST, "the worker ended without a result"),
    Ending.OUTPUT_NOT_STORED: EndState(
        _FAILED, ErrorCode.OUTPUT_NOT_STORED, "the output files could not be stored"
    ),
    Ending.RESULT_EXPIRED: EndState(
        _FAILED, ErrorCode.WORKER_LOST, "the result of the call has expired"
    ),
    Ending.INTERNAL: EndState(
        _FAILED, ErrorCode.INTERNAL, "the server could not run the job; see its log"
    ),
}
