"""The job as it travels: its status, progress, timings and events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from comfysnap_schema.wire.errors import Problem


class JobStatus(StrEnum):
    """State of a job; the last five are final and never change.

    Example: ``assert JobStatus.FAILED.is_final``
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    """It ran longer than its timeout."""
    EXPIRED = "expired"
    """It never started in time."""

    @property
    def is_final(self) -> bool:
        """Whether the status can never change again."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class Phase(StrEnum):
    """What a job does besides waiting and running its graph; a server may send newer ones.

    Example: ``is_downloading = record.progress.phase == "downloading_models"``
    """

    DOWNLOADING_MODELS = "downloading_models"


class Progress(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """Progress of a job; ``fraction`` never decreases within one attempt.

    Example: ``print(f"{record.progress.fraction:.0%}")``
    """

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    node: str | None = None
    """Id of the node that is running."""
    node_class: str | None = None
    node_title: str | None = None
    step: int | None = None
    """Step inside the node, from 0 to ``steps``."""
    steps: int | None = None
    queue_position: int | None = None
    """Jobs ahead of this one; None when running or unknown."""
    phase: Annotated[Phase | str, Field(union_mode="left_to_right")] | None = None
    """What is done before the graph runs; None while it waits or runs."""
    bytes_done: int | None = None
    """Of the files of the phase, all together."""
    bytes_total: int | None = None
    """None while unknown."""


class Timings(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """Durations of the stages of a job in seconds; None when not run or unknown."""

    queue: float | None = None
    """From acceptance until a worker took the job."""
    start: float | None = None
    """Until that worker was ready (load and attach, or a restore)."""
    start_kind: Literal["cold", "warm", "restored"] | None = None
    load: float | None = None
    """The engine's load in that worker, or in the process it was forked or restored from."""
    attach: float | None = None
    run: float | None = None
    """Running the graph, until its outputs are stored."""
    read: float | None = None
    """Of the run: model files were being read ahead, while other stages went on. None if none were;
    loading then reads them itself."""
    load_models: float | None = None
    """Of the run: nodes loaded models, or models moved to the device."""
    sample: float | None = None
    """Of the run: sampling, without loading."""
    store: float | None = None
    """Of the run: output nodes, and copying and hashing the files of outputs."""
    device: str | None = None
    """What the graph ran on: ``NVIDIA L40S``, ``cpu``. Not a duration, but it explains them."""
    nodes: dict[str, float] = Field(default_factory=dict)
    """Duration of each node that ran, by id."""


class JobRecord(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """A job as every route returns it.

    Example: ``seed = record.inputs.get("seed")``
    """

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,128}$")]
    """Safe as a part of a path."""
    workflow: str
    status: Annotated[JobStatus | str, Field(union_mode="left_to_right")]
    version: int
    """Grows with each change; pass it as ``after`` to wait for the next."""
    attempt: int = 0
    """How many times a worker took the job: 0 if it never ran."""
    cancel_requested_at: datetime | None = None
    progress: Progress = Progress()
    outputs: dict[str, JsonValue] | None = None
    """By output name: a file, a list of files, a text or JSON. While the job runs, those that are
    complete; all once it succeeded. A job that ended otherwise keeps what was complete by then.
    None if there are none."""
    error: Problem | None = None
    inputs: dict[str, JsonValue] = Field(default_factory=dict)
    """As run: with defaults and drawn seeds, files by reference, never inline data."""
    labels: dict[str, str] = Field(default_factory=dict)
    graph_hash: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    timings: Timings = Timings()

    @property
    def is_final(self) -> bool:
        """Whether the job reached a state that never changes."""
        return isinstance(self.status, JobStatus) and self.status.is_final


class JobPage(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """One page of ``GET /jobs``, newest first."""

    jobs: list[JobRecord]
    cursor: str | None = None
    """Pass it to get the next page; None on the last one."""
    owners: dict[str, str] = {}
    """Owner by job ID, where the jobs of all owners were asked for."""


class Preview(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """A preview frame of a running node."""

    content_type: str
    data: str
    """Base64."""
    node: str | None = None


class NamedOutput(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """An output that is complete: its node has run, and its files can be downloaded."""

    name: str
    value: JsonValue
    """As in the ``outputs`` of the job, now and in its final record."""


class JobEvent(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """One server-sent event of ``GET /events/{job_id}``.

    The SSE ``event`` field is ``type``, its ``id`` the job's version, its ``data`` this model.
    Events carry states, not history: after a reconnect with ``Last-Event-ID`` the server sends the
    current state if it is newer. Every connection gets each output once, before ``done``, which
    comes last and carries the final job::

        kinds = [event.type async for event in job.events()]
    """

    type: Annotated[
        Literal["status", "progress", "preview", "output", "done"] | str,
        Field(union_mode="left_to_right"),
    ]
    job: JobRecord | None = None
    """With ``status`` and ``done``."""
    progress: Progress | None = None
    """With ``progress``."""
    preview: Preview | None = None
    """With ``preview``."""
    output: NamedOutput | None = None
    """With ``output``."""


class WorkflowSummary(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """An entry of ``GET /workflows``."""

    name: str
    title: str
    description: str = ""
    contract: str
    """The contract hash."""
    default: bool = False


class WorkflowDetail(WorkflowSummary, frozen=True, extra="ignore", defer_build=True):
    """``GET /workflows/{name}``."""

    input_schema: dict[str, JsonValue]
    output_schema: dict[str, JsonValue]
    compatible_contracts: list[str] = Field(default_factory=list)
    """Earlier contract hashes that this server still accepts."""
