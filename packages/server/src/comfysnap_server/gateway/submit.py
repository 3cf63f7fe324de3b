"""From the body of an infer request to an accepted job."""

import asyncio
import base64
import binascii
import hashlib
import logging
import mimetypes
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
from comfysnap_server.gateway.metrics import Metrics
from comfysnap_server.gateway.problems import ProblemError, invalid_input
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import JobRequest, RemoteModel
from comfysnap_server.logs import fields
from comfysnap_server.models import RemoteModelSettings

log: Final = logging.getLogger("comfysnap.gateway")

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
    options: SubmitOptions
    idempotency_key: str | None
    contract: str | None
    budget: OwnerBudget = NO_BUDGET
    key_webhook: str | None = None
    """Where the key has its jobs sent that name no webhook."""

    @property
    def webhook(self) -> str | None:
        """Where the end of the job is to be sent; None: the default of the server."""
        return self.key_webhook if self.options.webhook is None else self.options.webhook

    @property
    def fingerprint(self) -> str:
        """Equal for equal submits, whatever the order and spacing of the body; empty without a key,
        since nothing is compared with it then."""
        if self.idempotency_key is None:
            return ""
        options = canonical_json(self.options.model_dump())
        parts = (self.workflow.encode(), options, canonical_json(self.inputs))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


@dataclass
class _Files:
    """What the inputs of one job refer to."""

    inputs: dict[str, JsonValue]
    names: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    files: dict[str, FileBySha256] = field(default_factory=dict[str, FileBySha256])


@dataclass
class _Models:
    """The models that the inputs of one job name by URL."""

    names: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Inputs with placeholders instead of URLs."""
    models: dict[str, RemoteModel] = field(default_factory=dict[str, RemoteModel])

    def add(self, field: str, folder: str | None, value: Mapping[str, JsonValue]) -> str:
        model = RemoteModel.model_validate(
            {
                "url": value["url"],
                "sha256": value.get("sha256"),
                "folder": folder,
                "field": field,
            }
        )
        self.models[model.placeholder] = model
        return model.placeholder


class JobSubmitter:
    """Turns submissions into jobs."""

    def __init__(
        self,
        backend: Backend,
        workflows: Mapping[str, Workflow],
        settings: GatewaySettings,
        downloads: InputDownloads,
        metrics: Metrics,
    ) -> None:
        self._backend = backend
        self._downloads = downloads
        self._metrics = metrics
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
        submitted = await self._backend.submit(request, submission.budget)
        if not submitted.replayed:
            self._metrics.accepted(request.workflow)
            log.info(
                "job accepted",
                extra=fields(job=request.job_id, workflow=request.workflow, owner=request.owner),
            )
        return submitted

    async def _earlier(self, submission: SubmitRequest, fingerprint: str) -> SubmitResult | None:
        key = submission.idempotency_key
        job = await self._backend.replay(submission.owner, key, fingerprint) if key else None
        return SubmitResult(job, replayed=True) if job else None

    def _checked(self, submission: SubmitRequest) -> Workflow:
        workflow = self._workflow(submission.workflow)
        self._check_contract(workflow, submission.contract)
        self._check_webhook(submission.webhook)
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

    def _check_webhook(self, url: str | None) -> None:
        webhooks = self._settings.webhooks
        if url is None:
            return
        problem = "is not offered by this server; poll /check_status or read /events"
        if webhooks.enabled:
            problem = webhooks.refusal(url)
        if problem is not None:
            raise ProblemError(
                ErrorCode.INVALID_REQUEST,
                f"webhook {problem}",
                fields=(FieldProblem(field="webhook", message=problem),),
            )

    async def _request(
        self,
        submission: SubmitRequest,
        workflow: Workflow,
        fingerprint: str,
        urls: Mapping[str, str],
    ) -> JobRequest:
        named = _models(submission.inputs, workflow, self._settings.remote_models)
        digests = await self._downloads.store(submission.owner, urls, submission.budget)
        found = await self._files(submission, workflow, digests)
        inputs = workflow.complete(found.inputs)
        graph = await _build(workflow, {**inputs, **found.names, **named.names})
        options = submission.options
        settings = self._settings
        travelling = {name: getattr(options, name) for name in JobOptions.model_fields}
        travelling["webhook"] = submission.webhook or settings.webhooks.url
        return JobRequest(
            **travelling,
            webhook_events=settings.webhooks.events,
            job_id=new_job_id(),
            owner=submission.owner,
            workflow=workflow.name,
            inputs=inputs,
            graph=graph,
            graph_hash=self._hashes[workflow.name],
            outputs=dict(workflow.outputs),
            fields=dict(workflow.fields),
            files={**found.files},
            models=named.models,
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
        for parameter, given in _given_files(submission.inputs, workflow):
            references: list[JsonValue] = []
            labels: list[JsonValue] = []
            for name, value in given.items():
                if name in digests:
                    reference = FileBySha256(sha256=digests[name])
                    suffix = PurePosixPath(urlsplit(value["url"]).path).suffix
                    label = reference.sha256[:32] + _suffix(parameter, suffix)
                else:
                    reference, label = await self._file(submission, name, parameter, value)
                references.append(cast("JsonValue", reference.model_dump()))
                labels.append(label)
                found.files[label] = reference
            is_list = parameter.is_list
            found.inputs[parameter.name] = references if is_list else references[0]
            found.names[parameter.name] = labels if is_list else labels[0]
        return found

    async def _file(
        self, submission: SubmitRequest, name: str, parameter: Parameter, value: dict[str, str]
    ) -> tuple[FileBySha256, str]:
        owner = submission.owner
        if "data" in value:
            data = _decode(name, value["data"])
            digest = hashlib.sha256(data).hexdigest()
            if not await self._backend.has_file(owner, digest):
                await self._backend.put_file(owner, digest, _once(data), submission.budget)
        else:
            digest = value["sha256"]
            if not await self._backend.has_file(owner, digest):
                message = f"was not uploaded, or is gone; PUT {routes.FILES}/{digest} first"
                raise ProblemError(
                    ErrorCode.UNKNOWN_FILE,
                    f"{name}: {message}",
                    status=422,
                    fields=(FieldProblem(field=name, message=message),),
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
    found = {
        name: value["url"]
        for _, given in _given_files(inputs, workflow)
        for name, value in given.items()
        if "url" in value
    }
    for name, url in found.items():
        if not _is_usable(url):
            message = "must be a public http(s) address, without user name or password"
            raise invalid_input(FieldProblem(field=name, message=message))
    return found


def _models(
    inputs: Mapping[str, JsonValue], workflow: Workflow, settings: RemoteModelSettings
) -> _Models:
    """The models that are named by URL.

    Raises:
        ProblemError: ``model_refused``: the server does not allow one of them.
    """
    found = _Models()
    for name, value in inputs.items():
        parameter = workflow.parameters[name]
        if parameter.folder is None or value is None:
            continue
        if isinstance(value, list):
            found.names[name] = [
                _with_placeholder(found, f"{name}[{index}]", parameter, item)
                for index, item in enumerate(value)
            ]
        else:
            found.names[name] = _with_placeholder(found, name, parameter, value)
    refused = [
        FieldProblem(field=model.field, message=reason)
        for model in found.models.values()
        if (reason := settings.problem(model.url)) is not None
    ]
    if refused:
        detail = "; ".join(f"{one.field}: {one.message}" for one in refused[:3])
        raise ProblemError(ErrorCode.MODEL_REFUSED, detail, fields=tuple(refused))
    return found


def _with_placeholder(
    found: _Models, field: str, parameter: Parameter, value: JsonValue
) -> JsonValue:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        value = {"url": value}
    if not isinstance(value, dict) or value.get("url") is None:
        return value
    if parameter.type == "model":
        return found.add(field, parameter.folder, value)
    others = {key: item for key, item in value.items() if key not in ("url", "sha256")}
    return {**others, "name": found.add(f"{field}.url", parameter.folder, value)}


def _given_files(
    inputs: Mapping[str, JsonValue], workflow: Workflow
) -> Iterator[tuple[Parameter, dict[str, dict[str, str]]]]:
    """Each input that is a file or a list of files, with its values by API field."""
    for name, value in inputs.items():
        parameter = workflow.parameters[name]
        if parameter.type != "file" or value is None:
            continue
        if parameter.is_list:
            items = cast("list[dict[str, str]]", value)
            yield parameter, {f"{name}[{index}]": item for index, item in enumerate(items)}
        else:
            yield parameter, {name: cast("dict[str, str]", value)}


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def _suffix(parameter: Parameter, suffix: str) -> str:
    suffix = suffix.lower()
    return suffix if suffix in _SUFFIXES else KINDS[parameter.kind or Kind.FILE].suffix


def _decode(name: str, data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        message = "its data must be plain base64, without a 'data:' prefix or line breaks"
        raise invalid_input(FieldProblem(field=name, message=message)) from error


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
