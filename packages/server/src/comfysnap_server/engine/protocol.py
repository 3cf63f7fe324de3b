"""The engine interface: load (snapshot-safe), attach (after a restore), run one job, interrupt."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph
from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    JobOptions,
    Kind,
    Preview,
    Problem,
    Progress,
)
from comfysnap_schema.workflow import OutputSpec
from comfysnap_server.errors import ComfysnapServerError

SCRATCH: Final = "COMFYSNAP_SCRATCH"
"""Environment variable: folder for files that an engine keeps between jobs. Whoever sets it must
empty it, since engines may be killed at any time. Default: the system's temporary folder."""


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """One graph to run, and the job's folders."""

    job_id: str
    graph: Graph
    outputs: Mapping[str, OutputSpec]
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """API fields by ``node.inputs.name``, to name fields in errors."""
    drawing: Mapping[str, JsonValue] | None = None
    """The workflow as ComfyUI's editor draws it, for nodes that read it."""
    input_dir: Path
    """Contains the input files under the names that the graph uses."""
    output_dir: Path
    """Empty folder of this job, for the files of the result."""
    options: JobOptions = field(default_factory=JobOptions)


@dataclass(frozen=True, kw_only=True)
class PreviewFrame:
    """A preview of the running node."""

    content_type: str
    data: bytes
    node: str | None = None

    def on_wire(self) -> Preview:
        """The same in base64."""
        data = base64.b64encode(self.data).decode()
        return Preview(content_type=self.content_type, data=data, node=self.node)


@dataclass(frozen=True, kw_only=True)
class ProducedFile:
    """A file in the job's output folder."""

    path: Path
    kind: Kind
    content_type: str | None = None
    """Default: derived from the file's name."""


@dataclass(frozen=True, kw_only=True)
class NodeOutput:
    """An output whose node ended while other nodes still have to run."""

    name: str
    items: list[ProducedFile] | list[JsonValue]
    """As in ``EngineResult``; the files are read before ``Report`` returns."""


Report = Callable[[Progress | PreviewFrame | NodeOutput], None]
"""Called from the thread that runs the job; returns at once, but for copying files."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Seconds of the stages of a job; None where an engine does not know."""

    read: float | None = None
    """Reading model files ahead, while other stages went on; None if nothing was read ahead."""
    load: float | None = None
    """Loading models, and moving them to the device."""
    sample: float | None = None
    store: float | None = None
    """Output nodes."""


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """Result of a job."""

    outputs: Mapping[str, list[ProducedFile] | list[JsonValue]]
    """By output name: files, or for texts and JSON the values. Always a list; ``many = false`` uses
    its first item."""
    node_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    stages: StageSeconds = StageSeconds()


class EngineError(ComfysnapServerError):
    """The job failed; the engine can run the next one."""

    def __init__(
        self, code: ErrorCode, detail: str, *, fields: tuple[FieldProblem, ...] = ()
    ) -> None:
        self.problem = Problem(
            title=code.value.replace("_", " ").capitalize(), code=code, detail=detail, fields=fields
        )
        super().__init__(detail)


class EngineStartError(ComfysnapServerError):
    """The engine cannot run jobs on this machine; the message is the reason."""


class EngineInterrupted(ComfysnapServerError):
    """``interrupt`` stopped the job."""


class Engine(Protocol):
    """Runs one job at a time. ``run`` is called on a worker thread, ``interrupt`` from any."""

    name: str
    """``comfyui`` or ``simulated``."""

    def load(self) -> None:
        """Load everything that a memory snapshot may contain: imports, weights in CPU memory. Must
        not use the GPU, open sockets, start threads or run a job."""
        ...

    def attach(self) -> None:
        """Find the device and reseed, after a restore, a fork or a plain start. Idempotent.

        Raises:
            EngineStartError: A requirement of the engine is missing on this machine.
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
        """Stop the job as soon as possible, or when it starts; ignored if it already ended. Must
        not be lost, and must not stop another job."""
        ...
