"""Runs one job: stages its input files, runs its graph on an engine, and says how it ended."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, JsonValue

from comfysnap_schema.comfy import InputPath
from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    JobStatus,
    OutputFile,
    Problem,
    Progress,
    Timings,
)
from comfysnap_server.engine.outputs import JobOutput, OutputCollector
from comfysnap_server.engine.protocol import (
    Engine,
    EngineError,
    EngineInterrupted,
    EngineJob,
    EngineResult,
    NodeOutput,
    PreviewFrame,
)
from comfysnap_server.errors import BackendError, ComfysnapServerError
from comfysnap_server.jobs.endings import ENDINGS, Ending
from comfysnap_server.jobs.files import FileStore
from comfysnap_server.jobs.request import JobRequest

logger = logging.getLogger(__name__)

WORK: Final = ".work"
"""Folder below the output folder in which the engine works; no output has this name."""


@dataclass(frozen=True, kw_only=True)
class EarlyOutput:
    """An output that is complete while its job still runs; its files do not change any more."""

    name: str
    output: JobOutput


_OF_RUN: Final = ("read", "load_models", "sample", "store", "nodes")

Report = Callable[[Progress | PreviewFrame | EarlyOutput], None]
"""Called from the thread that runs the job; returns at once."""


class JobEnd(BaseModel, frozen=True):
    """What a job's record says about its end, on the wire and in the stores."""

    status: JobStatus
    outputs: dict[str, JsonValue] | None = None
    error: Problem | None = None
    progress: Progress = Progress()
    """The last one reported."""
    timings: Timings = Timings()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one attempt at a job ended."""

    status: JobStatus
    """``succeeded``, ``failed`` or ``cancelled``; see ``stopped_by``."""
    outputs: Mapping[str, JobOutput] | None = None
    """All when it succeeded; else those that were complete, or None."""
    error: Problem | None = None
    timings: Timings = field(default_factory=Timings)
    """Those of the run; None and empty when the engine did not run."""
    must_restart: bool = False
    """The engine failed in a way it did not foresee: its process must not run another job."""

    @property
    def files(self) -> list[OutputFile]:
        """The files of the outputs."""
        return [file for output in (self.outputs or {}).values() for file in output.files]

    def stopped_by(self, ending: Ending) -> "Outcome":
        """With the reason why the job was interrupted; a job that ended in its own way before the
        interrupt reached it keeps that end."""
        if self.status is not JobStatus.CANCELLED:
            return self
        return replace(self, status=ENDINGS[ending].status, error=ENDINGS[ending].problem())

    def end(
        self,
        started: Timings,
        progress: Progress,
        seconds: float | None = None,
        *,
        outputs: Mapping[str, JsonValue] | None = None,
    ) -> JobEnd:
        """The end of the job.

        Args:
            started: What was known when the worker took the job.
            progress: The last one reported.
            seconds: Since then; the run of a job whose engine did not end it.
            outputs: Those of the record so far; a job that does not succeed keeps them.
        """
        succeeded = self.status is JobStatus.SUCCEEDED
        run = seconds if self.timings.run is None else self.timings.run
        made = {name: output.on_wire() for name, output in (self.outputs or {}).items()}
        return JobEnd(
            status=self.status,
            outputs=made if succeeded else {**(outputs or {}), **made} or None,
            error=self.error,
            progress=progress.model_copy(
                update={"phase": None, "bytes_done": None, "bytes_total": None}
                | ({"fraction": 1.0} if succeeded else {})
            ),
            timings=started.model_copy(
                update={name: getattr(self.timings, name) for name in _OF_RUN} | {"run": run}
            ),
        )


def ended(ending: Ending, detail: str | None = None, *, must_restart: bool = False) -> Outcome:
    """The outcome of a job that the engine did not end."""
    end = ENDINGS[ending]
    return Outcome(status=end.status, error=end.problem(detail), must_restart=must_restart)


class JobRun:
    """One attempt at a job, from its input files to its outcome.

    Args:
        engine: Attached; runs no other job meanwhile.
        request: The job.
        input_dir: Empty folder for the input files.
        output_dir: Empty folder for the files of the outputs.
        files: Uploaded files.
        report: Called from the thread of ``execute``.
    """

    def __init__(
        self,
        engine: Engine,
        request: JobRequest,
        *,
        input_dir: Path,
        output_dir: Path,
        files: FileStore,
        report: Report,
    ) -> None:
        self.request = request
        self._engine = engine
        self._job = EngineJob(
            job_id=request.job_id,
            graph=request.graph,
            outputs=request.outputs,
            fields=request.fields,
            drawing=request.drawing,
            input_dir=input_dir,
            output_dir=output_dir,
            options=request,
        )
        self._files = files
        self._report = report
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._staged = False

    def take_models(self, hashes: Mapping[str, str]) -> None:
        """Name the downloaded models in the graph; before ``execute``.

        Args:
            hashes: Placeholder to SHA-256.
        """
        self.request = self.request.with_models(hashes)
        self._job = replace(self._job, graph=self.request.graph)

    def execute(self) -> Outcome:
        """Stage the input files, then run the graph. Never raises for what the job does."""
        unavailable: Problem | None = None
        try:
            stage_inputs(self.request, self._files, self._job.input_dir)
        except InputUnavailableError as error:
            unavailable = error.problem
        with self._lock:
            if self._stopped.is_set():
                return ended(Ending.INTERRUPTED)
            self._staged = True
        if unavailable is not None:
            return Outcome(status=JobStatus.FAILED, error=unavailable)
        return execute(self._engine, self._job, self._report)

    def interrupt(self) -> None:
        """Stop the job, from any thread, whether it started or not."""
        with self._lock:
            self._stopped.set()
            if self._staged:
                self._engine.interrupt(self.request.job_id)


def execute(engine: Engine, job: EngineJob, report: Report) -> Outcome:
    """Run a graph to its end. Never raises for what the job does; a traceback only goes to the
    log, under the job's id.

    The engine works in a folder of its own, so that ``output_dir`` holds the files of outputs and
    nothing else, each from the moment when its output is complete.
    """
    work = replace(job, output_dir=job.output_dir / WORK)
    work.output_dir.mkdir()
    try:
        return _execute(engine, work, OutputCollector(work, job.output_dir), report)
    finally:
        shutil.rmtree(work.output_dir, ignore_errors=True)


def _execute(engine: Engine, job: EngineJob, outputs: OutputCollector, report: Report) -> Outcome:
    began = time.perf_counter()
    timings = Timings()

    def pass_on(news: Progress | PreviewFrame | NodeOutput) -> None:
        if not isinstance(news, NodeOutput):
            report(news)
        elif (made := outputs.early(news)) is not None:
            report(EarlyOutput(name=news.name, output=made))

    try:
        result = engine.run(job, pass_on)
        ran = time.perf_counter()
        outcome = Outcome(status=JobStatus.SUCCEEDED, outputs=outputs.finish(result))
        timings = _timings(result, time.perf_counter() - ran)
    except EngineInterrupted:
        outcome = ended(Ending.INTERRUPTED)
    except EngineError as failure:
        outcome = Outcome(status=JobStatus.FAILED, error=failure.problem)
    except MemoryError:
        logger.exception("job %s ran out of memory", job.job_id)
        outcome = ended(Ending.OUT_OF_MEMORY)
    except BaseException as failure:  # a node may raise SystemExit, and the job still has to end
        logger.exception("job %s: the engine failed", job.job_id)
        detail = f"the engine failed unexpectedly ({type(failure).__name__})"
        outcome = ended(Ending.ENGINE_FAILED, detail, must_restart=True)
    seconds = round(time.perf_counter() - began, 6)
    return replace(
        outcome,
        outputs=outcome.outputs or outputs.collected or None,
        timings=timings.model_copy(update={"run": seconds}),
    )


def _timings(result: EngineResult, finishing: float) -> Timings:
    """The stages of a run.

    Args:
        result: What the engine measured.
        finishing: Seconds from its end until the outputs were complete.
    """
    stages = result.stages
    return Timings(
        read=_rounded(stages.read),
        load_models=_rounded(stages.load),
        sample=_rounded(stages.sample),
        store=_rounded((stages.store or 0.0) + finishing),
        nodes=dict(result.node_seconds),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class InputUnavailableError(ComfysnapServerError):
    """An input file of the job is not available."""

    def __init__(self, field: str | None, detail: str) -> None:
        message = f"{field}: {detail}" if field else detail
        self.problem = Problem(
            title="Input unavailable",
            code=ErrorCode.INPUT_UNAVAILABLE,
            detail=message,
            fields=(FieldProblem(field=field, message=detail),),
        )
        super().__init__(message)


def stage_inputs(request: JobRequest, store: FileStore, folder: Path) -> None:
    """Copy the job's files into ``folder``, under the names that the graph uses. Copies, because a
    node may write to its input.

    Raises:
        InputUnavailableError: A file is gone.
    """
    for name, file in request.files.items():
        target = folder / name
        if target.parent != folder:
            raise InputUnavailableError(_field(request, name), "the file name is not allowed")
        try:
            shutil.copyfile(store.path(request.owner, file.sha256), target)
        except BackendError as error:
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
