"""From the body of an infer request to an accepted job."""

import asyncio
import base64
import binascii
import hashlib
import mimetypes
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph, canonical_json, graph_hash
from comfysnap_schema.wire import (
    KINDS,
    ErrorCode,
    FieldProblem,
    FileBySha256,
    InputError,
    JobOptions,
    Kind,
    SubmitOptions,
    routes,
)
from comfysnap_schema.workflow import Parameter, Workflow
from comfysnap_server.backends.protocol import NO_BUDGET, Backend, OwnerBudget, SubmitResult
from comfysnap_server.gateway.input_urls import InputDownloads
from comfysnap_server.gateway.inputs import MAX_ISSUES, InputValidator
from comfysnap_server.gateway.problems import ProblemError, invalid_input
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import JobRequest

IDEMPOTENCY_KEY_PATTERN: Final = r"^[\x21-\x7e]{1,255}$"

_ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_SUFFIXES: Final = frozenset({
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".exr", ".mp4",
    ".mov", ".mkv", ".webm", ".avi", ".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac",
    ".glb", ".gltf", ".obj", ".fbx", ".stl", ".usdz", ".txt", ".json", ".csv", ".safetensors",
    ".latent",
})  # fmt: skip
"""Endings that a file of a stranger may keep in ComfyUI's input folder."""


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """One infer request, read but not yet checked against a workflow."""

    owner: str
    workflow: str
    inputs: dict[str, JsonValue]
    canonical: bytes
    options: SubmitOptions
    idempotency_key: str | None
    contract: str | None
    budget: OwnerBudget = NO_BUDGET

    @property
    def fingerprint(self) -> str:
        """Equal for equal submits, whatever the order and spacing of the body."""
        options = canonical_json(self.options.model_dump())
        parts = (self.workflow.encode(), options, self.canonical)
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


@dataclass
class _Files:
    """What the inputs of one job refer to."""

    inputs: dict[str, JsonValue]
    names: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    files: dict[str, FileBySha256] = field(default_factory=dict[str, FileBySha256])


class JobSubmitter:
    """Turns submissions into jobs."""

    def __init__(
        self,
        backend: Backend,
        workflows: Mapping[str, Workflow],
        settings: GatewaySettings,
        downloads: InputDownloads,
    ) -> None:
        self._backend = backend
        self._downloads = downloads
        self._workflows = workflows
        self._settings = settings
        self._validators = {
            name: InputValidator(workflow.contract.input_schema)
            for name, workflow in workflows.items()
        }
        self._hashes = {name: graph_hash(entry.graph) for name, entry in workflows.items()}

    async def submit(self, submission: SubmitRequest) -> SubmitResult:
        """Accept the job, or replay the one that the idempotency key already made.

        Raises:
            ProblemError: The submission is refused.
            BackendError: The backend refuses it.
        """
        fingerprint = submission.fingerprint
        try:
            workflow = self._checked(submission)
            urls = _urls(submission.inputs, workflow)
            # A replay downloads nothing: the file may have changed, or be gone.
            earlier = await self._earlier(submission, fingerprint) if urls else None
            if earlier is not None:
                return earlier
            request = await self._request(submission, workflow, fingerprint, urls)
        except ProblemError:
            # What is refused today may have been accepted when the key was first sent.
            earlier = await self._earlier(submission, fingerprint)
            if earlier is None:
                raise
            return earlier
        return await self._backend.submit(request, submission.budget)

    async def _earlier(self, submission: SubmitRequest, fingerprint: str) -> SubmitResult | None:
        key = submission.idempotency_key
        job = await self._backend.replay(submission.owner, key, fingerprint) if key else None
        return SubmitResult(job, replayed=True) if job else None

    def _checked(self, submission: SubmitRequest) -> Workflow:
        workflow = self._workflow(submission.workflow)
        self._check_contract(workflow, submission.contract)
        self._check_options(submission.options)
        problems = self._validators[workflow.name].problems(submission.inputs)
        if problems:
            raise invalid_input(*problems)
        return workflow

    def _workflow(self, name: str) -> Workflow:
        workflow = self._workflows.get(name)
        if workflow is None:
            raise unknown_workflow(name, self._workflows)
        return workflow

    def _check_contract(self, workflow: Workflow, given: str | None) -> None:
        if given is None or given in workflow.compatible:
            return
        raise ProblemError(
            ErrorCode.CONTRACT_MISMATCH,
            f"the client was generated from contract {given[:64]!r} of {workflow.name!r} and the"
            f" server has {workflow.contract.hash!r}; run 'comfysnap generate' again",
        )

    def _check_options(self, options: SubmitOptions) -> None:
        if options.webhook is not None:
            raise ProblemError(
                ErrorCode.INVALID_REQUEST,
                "this server delivers no webhooks; poll /check_status or read /events",
                fields=(FieldProblem(field="webhook", message="is not offered by this server"),),
            )

    async def _request(
        self,
        submission: SubmitRequest,
        workflow: Workflow,
        fingerprint: str,
        urls: Mapping[str, str],
    ) -> JobRequest:
        digests = await self._downloads.store(submission.owner, urls, submission.budget)
        found = await self._files(submission, workflow, digests)
        inputs = workflow.complete(found.inputs)
        graph = await _build(workflow, {**inputs, **found.names})
        options = submission.options
        settings = self._settings
        return JobRequest(
            **{name: getattr(options, name) for name in JobOptions.model_fields},
            job_id=new_job_id(),
            owner=submission.owner,
            workflow=workflow.name,
            inputs=inputs,
            graph=graph,
            graph_hash=self._hashes[workflow.name],
            outputs=dict(workflow.outputs),
            fields=dict(workflow.fields),
            files={**found.files},
            drawing=workflow.drawing,
            labels=label_map(options.label),
            timeout=min(options.timeout or settings.default_timeout, settings.max_timeout),
            queue_timeout=settings.queue_timeout,
            max_attempts=settings.max_attempts,
            idempotency_key=submission.idempotency_key,
            fingerprint=fingerprint,
            created_at=datetime.now(UTC),
        )

    async def _files(
        self, submission: SubmitRequest, workflow: Workflow, digests: Mapping[str, str]
    ) -> _Files:
        found = _Files(dict(submission.inputs))
        for name, value in submission.inputs.items():
            parameter = workflow.parameters[name]
            if parameter.type == "file" and value is not None:
                given = cast("dict[str, str]", value)
                if name in digests:
                    reference = FileBySha256(sha256=digests[name])
                    suffix = PurePosixPath(urlsplit(given["url"]).path).suffix
                    label = reference.sha256[:32] + _suffix(parameter, suffix)
                else:
                    reference, label = await self._file(submission, parameter, given)
                found.inputs[name] = cast("JsonValue", reference.model_dump())
                found.names[name] = label
                found.files[label] = reference
        return found

    async def _file(
        self, submission: SubmitRequest, parameter: Parameter, value: dict[str, str]
    ) -> tuple[FileBySha256, str]:
        owner = submission.owner
        if "data" in value:
            data = _decode(parameter, value["data"])
            digest = hashlib.sha256(data).hexdigest()
            if not await self._backend.has_file(owner, digest):
                await self._backend.put_file(owner, digest, _once(data), submission.budget)
        else:
            digest = value["sha256"]
            if not await self._backend.has_file(owner, digest):
                message = f"was not uploaded, or is gone; PUT {routes.FILES}/{digest} first"
                raise ProblemError(
                    ErrorCode.UNKNOWN_FILE,
                    f"{parameter.name}: {message}",
                    status=422,
                    fields=(FieldProblem(field=parameter.name, message=message),),
                )
        guessed = mimetypes.guess_extension(value.get("content_type", "")) or ""
        return FileBySha256(sha256=digest), digest[:32] + _suffix(parameter, guessed)


async def _build(workflow: Workflow, values: dict[str, JsonValue]) -> Graph:
    """The graph to run, with ComfyUI's verdict on the API fields."""
    try:
        if workflow.prepare is None:
            graph = workflow.build(values)
        else:  # the workflow's own Python, which may be slow
            graph = await asyncio.to_thread(workflow.build, values)
    except InputError as error:
        raise invalid_input(*error.fields) from error
    issues = workflow.validate(graph)
    if issues:
        problem = invalid_input(*(issue.problem() for issue in issues[:MAX_ISSUES]))
        if any(issue.field is None for issue in issues):
            problem.code = ErrorCode.GRAPH_INVALID
        raise problem
    return graph


def label_map(labels: Sequence[str]) -> dict[str, str]:
    """``key:value`` strings as a mapping; of equal keys the last one counts."""
    return {key: value for key, _, value in (label.partition(":") for label in labels)}


def new_job_id() -> str:
    """``job_`` and a ULID: sortable by time, 80 random bits."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    digits = [_ID_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return "job_" + "".join(digits)


def unknown_workflow(name: str, known: Mapping[str, Any]) -> ProblemError:
    """The refusal of a workflow that is not there."""
    return ProblemError(
        ErrorCode.UNKNOWN_WORKFLOW,
        f"unknown workflow {name[:64]!r}; available: {', '.join(known)}",
    )


def _urls(inputs: Mapping[str, JsonValue], workflow: Workflow) -> dict[str, str]:
    """The URLs of input files, by API field.

    Raises:
        ProblemError: One cannot be downloaded, whatever is there.
    """
    found: dict[str, str] = {}
    for name, value in inputs.items():
        if workflow.parameters[name].type == "file" and isinstance(value, dict) and "url" in value:
            url = str(value["url"])
            if not _is_usable(url):
                message = "must be a public http(s) address, without user name or password"
                raise invalid_input(FieldProblem(field=name, message=message))
            found[name] = url
    return found


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def _suffix(parameter: Parameter, suffix: str) -> str:
    suffix = suffix.lower()
    return suffix if suffix in _SUFFIXES else KINDS[parameter.kind or Kind.FILE].suffix


def _decode(parameter: Parameter, data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        message = "its data must be plain base64, without a 'data:' prefix or line breaks"
        raise invalid_input(FieldProblem(field=parameter.name, message=message)) from error


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
