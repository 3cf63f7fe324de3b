"""What an engine is: load (snapshot-safe), attach (after restore), run one job, interrupt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph
from comfysnap_schema.wire import ErrorCode, FieldProblem, Kind, Problem, Progress
from comfysnap_schema.workflow import OutputSpec

SCRATCH: Final = "COMFYSNAP_SCRATCH"
"""Environment variable: the folder for what an engine keeps on the disk between jobs, emptied by
whoever sets it; engines are ended without warning. Unset: the system's temporary folder."""


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """One graph to run, with its own folders."""

    job_id: str
    graph: Graph
    outputs: Mapping[str, OutputSpec]
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """``node.inputs.name`` to API field, to name fields in errors."""
    input_dir: Path
    """Holds the input files under the names that the graph uses."""
    output_dir: Path
    """Empty folder of this job alone; files of the result lie in it."""
    previews: bool = False
    timeout: float | None = None
    """Seconds; the caller enforces it through ``interrupt``."""


@dataclass(frozen=True, kw_only=True)
class PreviewFrame:
    """A preview of the running node."""

    content_type: str
    data: bytes
    node: str | None = None


Report = Callable[[Progress | PreviewFrame], None]
"""Called from the thread that runs the job; returns at once."""


@dataclass(frozen=True, kw_only=True)
class ProducedFile:
    """A file in the job's output folder."""

    path: Path
    kind: Kind
    content_type: str | None = None
    """None: from the file's name."""


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """What a job made, by output name: files for file kinds, JSON (a ``str`` for text) else."""

    outputs: Mapping[str, list[ProducedFile] | list[JsonValue]]
    """Always lists, in order; ``many = false`` takes the first."""
    node_seconds: Mapping[str, float] = field(default_factory=dict[str, float])


class EngineError(Exception):
    """The job failed; the engine is fit for the next one."""

    def __init__(
        self, code: ErrorCode, detail: str, *, fields: tuple[FieldProblem, ...] = ()
    ) -> None:
        self.problem = Problem(
            title=code.value.replace("_", " ").capitalize(), code=code, detail=detail, fields=fields
        )
        super().__init__(detail)


class EngineStartError(Exception):
    """The engine cannot run jobs on this machine; the message is the reason."""


class EngineInterrupted(Exception):
    """``interrupt`` stopped the job."""


class Engine(Protocol):
    """Runs one job at a time. ``run`` is called on a worker thread, ``interrupt`` from any."""

    name: str
    """``comfyui`` or ``simulated``."""

    def load(self) -> None:
        """Everything a memory snapshot may hold: imports, weights in CPU memory. No GPU, no
        sockets, no threads, no job."""
        ...

    def attach(self) -> None:
        """After a restore, a fork, or a plain start: device, fresh randomness. Idempotent.

        Raises:
            EngineStartError: What the engine was made to need is not on this machine.
        """
        ...

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Run one job to its end.

        Raises:
            EngineError: The job failed.
            EngineInterrupted: ``interrupt`` was called for it.
        """
        ...

    def interrupt(self, job_id: str) -> None:
        """Stop the job as soon as it can: now, when it starts, or never if it already ended.
        Never lost, whenever it comes; never hits another job."""
        ...
