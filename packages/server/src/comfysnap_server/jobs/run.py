"""Runs one job on an engine and says how it ended, in the words of the wire."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from comfysnap_schema.wire import JobStatus, Problem
from comfysnap_server.engine.outputs import wire_outputs
from comfysnap_server.engine.protocol import (
    Engine,
    EngineError,
    EngineInterrupted,
    EngineJob,
    Report,
)
from comfysnap_server.jobs.endings import ENDINGS, Ending

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
    must_restart: bool = False
    """The engine failed in a way it did not foresee: its process must not run another job."""


def execute(engine: Engine, job: EngineJob, report: Report) -> Outcome:
    """Run ``job`` to its end. Never raises for what the job does; a traceback only goes to the
    log, under the job's id."""
    started = time.perf_counter()
    outputs: dict[str, JsonValue] | None = None
    node_seconds: Mapping[str, float] = {}
    error: Problem | None = None
    status = JobStatus.FAILED
    must_restart = False
    try:
        result = engine.run(job, report)
        node_seconds = result.node_seconds
        outputs = wire_outputs(job, result)
        status = JobStatus.SUCCEEDED
    except EngineInterrupted:
        interrupted = ENDINGS[Ending.INTERRUPTED]
        status, error = interrupted.status, interrupted.problem()
    except EngineError as failure:
        error = failure.problem
    except MemoryError:
        logger.exception("job %s ran out of memory", job.job_id)
        error = ENDINGS[Ending.OUT_OF_MEMORY].problem()
    except BaseException as failure:  # a node may raise SystemExit, and the job still has to end
        must_restart = True
        logger.exception("job %s: the engine failed", job.job_id)
        detail = f"the engine failed unexpectedly ({type(failure).__name__})"
        error = ENDINGS[Ending.ENGINE_FAILED].problem(detail)
    return Outcome(
        status=status,
        outputs=outputs,
        error=error,
        run_seconds=time.perf_counter() - started,
        node_seconds=node_seconds,
        must_restart=must_restart,
    )


def failed(ending: Ending, detail: str | None = None, *, must_restart: bool = False) -> Outcome:
    """The outcome of a job that the engine did not end."""
    end = ENDINGS[ending]
    return Outcome(status=end.status, error=end.problem(detail), must_restart=must_restart)
