"""Runs one job on an engine and says how it ended, in the words of the wire."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from comfysnap_schema.wire import ErrorCode, JobStatus, Problem
from comfysnap_server.engine.outputs import wire_outputs
from comfysnap_server.engine.protocol import (
    Engine,
    EngineError,
    EngineInterrupted,
    EngineJob,
    Report,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: JobStatus
    """``succeeded``, ``failed`` or ``cancelled``; who interrupted it for its timeout says so."""
    outputs: dict[str, JsonValue] | None = None
    error: Problem | None = None
    run_seconds: float = 0.0
    node_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    unfit: bool = False
    """The engine failed in a way it did not foresee: its process must not run another job."""


def execute(engine: Engine, job: EngineJob, report: Report) -> Outcome:
    """Run ``job`` to its end. Never raises for what the job does; a traceback only goes to the
    log, under the job's id."""
    started = time.perf_counter()
    outputs: dict[str, JsonValue] | None = None
    node_seconds: Mapping[str, float] = {}
    error: Problem | None = None
    status = JobStatus.FAILED
    unfit = False
    try:
        result = engine.run(job, report)
        node_seconds = result.node_seconds
        outputs = wire_outputs(job, result)
        status = JobStatus.SUCCEEDED
    except EngineInterrupted:
        status = JobStatus.CANCELLED
        error = problem(ErrorCode.JOB_CANCELLED, "the job was stopped before it finished")
    except EngineError as failure:
        error = failure.problem
    except MemoryError:
        logger.exception("job %s ran out of memory", job.job_id)
        error = problem(ErrorCode.OUT_OF_MEMORY, "the machine ran out of memory")
    except BaseException as failure:  # a node may raise SystemExit, and whoever waits must hear it
        unfit = True
        logger.exception("job %s: the engine failed", job.job_id)
        detail = f"the engine failed unexpectedly ({type(failure).__name__})"
        error = problem(ErrorCode.ENGINE_FAILED, detail)
    return Outcome(
        status=status,
        outputs=outputs,
        error=error,
        run_seconds=time.perf_counter() - started,
        node_seconds=node_seconds,
        unfit=unfit,
    )


def problem(code: ErrorCode, detail: str) -> Problem:
    """The error of a job."""
    return Problem(title=code.value.replace("_", " ").capitalize(), code=code, detail=detail)
