"""An accepted job, as it travels from the gateway through a backend to the worker."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue

from comfysnap_schema.comfy import Graph
from comfysnap_schema.wire import (
    FileBySha256,
    JobOptions,
    JobRecord,
    ModelUrl,
    Progress,
    Timings,
    WebhookType,
)
from comfysnap_schema.workflow import OutputSpec
from comfysnap_server.jobs.webhooks import Delivery

REMOTE_FOLDER: Final = "remote"
"""Folder, in each folder of models, of those that jobs named by URL."""


class RemoteModel(ModelUrl, frozen=True):
    """A model that a job names by URL, and what it is for."""

    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Of ``models/``."""
    field: str
    """The API field."""

    @property
    def placeholder(self) -> str:
        """Its name in the graph until it is downloaded and its hash is known."""
        parts = "\0".join((self.folder, self.url, self.sha256 or ""))
        return model_name(f"url-{hashlib.sha256(parts.encode()).hexdigest()[:32]}")


def model_name(stem: str) -> str:
    """The name of a remote model in a graph."""
    return f"{REMOTE_FOLDER}/{stem}.safetensors"


class JobRequest(JobOptions, frozen=True):
    """Everything that a worker needs, so that a queued job runs as it was accepted."""

    job_id: str
    owner: str
    """Who submitted it; jobs, keys and files of one owner are invisible to others."""
    workflow: str
    inputs: dict[str, JsonValue]
    """Complete, validated, without inline data."""
    graph: Graph
    """Applied and validated."""
    graph_hash: str
    outputs: dict[str, OutputSpec]
    fields: dict[str, str] = Field(default_factory=dict)
    """``node.inputs.name`` to API field."""
    files: dict[str, FileBySha256] = Field(default_factory=dict)
    """Name that the graph uses in the input folder, to the file."""
    models: dict[str, RemoteModel] = Field(default_factory=dict)
    """Placeholder in the graph to the model that is to be downloaded."""
    drawing: dict[str, JsonValue] | None = None
    """The workflow as ComfyUI's editor draws it, for nodes of packs that read it."""
    labels: dict[str, str] = Field(default_factory=dict)
    timeout: float
    """Longest run, in seconds."""
    queue_timeout: float | None = None
    """Seconds after which a job that did not start expires."""
    max_attempts: int = 1
    webhook_events: frozenset[WebhookType] | None = None
    """Ends that are sent to ``webhook``; None: all of them."""
    idempotency_key: str | None = None
    fingerprint: str = ""
    """Hash of the submit (workflow, body, options): the same key with another one is refused."""
    created_at: datetime

    @property
    def delivery(self) -> Delivery | None:
        """The webhook of the job, which waits for its end."""
        if self.webhook is None:
            return None
        return Delivery(
            url=self.webhook,
            owner=self.owner,
            events=self.webhook_events,
            due_at=self.created_at.timestamp(),
        )

    def record(self, **state: Any) -> JobRecord:
        """The job in the given state, as clients see it."""
        # Given, since pydantic copies its defaults in depth.
        whole: dict[str, Any] = {"progress": Progress(), "timings": Timings(), **state}
        return JobRecord(
            id=self.job_id,
            workflow=self.workflow,
            inputs=self.inputs,
            labels=self.labels,
            graph_hash=self.graph_hash,
            created_at=self.created_at,
            **whole,
        )

    def with_models(self, hashes: Mapping[str, str]) -> "JobRequest":
        """With the names of the downloaded models in the graph.

        Args:
            hashes: Placeholder to SHA-256.
        """
        if not hashes:
            return self
        names = {name: model_name(digest) for name, digest in hashes.items()}
        graph: Graph = {
            node: {**entry, "inputs": {k: _renamed(v, names) for k, v in entry["inputs"].items()}}
            for node, entry in self.graph.items()
        }
        return self.model_copy(update={"graph": graph, "models": {}})

    @property
    def stored_files(self) -> set[str]:
        """Hashes of the uploaded files that the job reads."""
        return {file.sha256 for file in self.files.values()}


def _renamed(value: JsonValue, names: Mapping[str, str]) -> JsonValue:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value
