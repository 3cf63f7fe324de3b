"""A job as the result of a tool: a text, structured content, a small picture, links to files."""

import asyncio
import base64
import io
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import JsonValue

from comfysnap_schema.wire import FILE_KINDS, JobRecord, JobStatus, Kind, OutputFile
from comfysnap_schema.workflow import Workflow
from comfysnap_server.gateway.adapters import AdapterJobs
from comfysnap_server.gateway.mcp.tools import CANCEL_JOB, GET_JOB, for_a_model
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.logs import fields

log = logging.getLogger("comfysnap.gateway")

MAX_BYTES: Final = 700_000
"""Of a result as JSON; the SDK and hosts refuse those of 1 MB."""
ERROR_META: Final = "comfysnap/error"
"""In ``_meta`` of a refused call, for programs: the code, and what else a problem has."""
_MAX_FILES: Final = 32
"""Of one result; the others are in ``/check_status``."""
_MAX_TEXT: Final = 15_000
"""Characters of all texts and JSON of one result, which has them twice. Claude Code takes 25,000
tokens."""
_MAX_SOURCE_BYTES: Final = 64 * 1024**2
"""Larger pictures have no preview."""
_PREVIEWS: Final = ((1024, 85), (1024, 60), (768, 60), (512, 50))
"""Longest edge and quality, tried until one is small enough."""
_PICTURES: Final = frozenset({Kind.IMAGE, Kind.MASK, Kind.ANIMATION})
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")


class JobResults:
    """Makes results of jobs.

    Args:
        jobs: Links and reads their files.
        workflows: Results have the values of their random inputs.
    """

    def __init__(self, jobs: AdapterJobs, workflows: Mapping[str, Workflow]) -> None:
        self._jobs = jobs
        self._random = {
            name: [one.name for one in workflow.parameters.values() if one.random]
            for name, workflow in workflows.items()
        }

    async def result(
        self, owner: str, job: JobRecord, base_url: str, *, failed_is_error: bool = True
    ) -> CallToolResult:
        """What a caller gets of a job as it is now.

        Args:
            owner: Whose job it is.
            job: The job.
            base_url: Address of the server, for links.
            failed_is_error: Whether a job that ended without succeeding is an error of the call.
        """
        files = list(_files(job))[:_MAX_FILES]
        urls = {file.name: await self._jobs.url(owner, job.id, file, base_url) for file in files}
        outputs = _outputs(job, urls)
        random = self._random.get(job.workflow, [])
        seeds = {name: job.inputs[name] for name in random if name in job.inputs}
        content: list[ContentBlock] = [TextContent(text=_text(job, outputs, seeds))]
        content += [
            ResourceLink(
                name=file.name, uri=urls[file.name], mime_type=file.content_type, size=file.size
            )
            for file in files
        ]
        result = CallToolResult(
            content=content,
            structured_content=_structured(job, outputs, seeds),
            is_error=failed_is_error and job.is_final and job.status != JobStatus.SUCCEEDED,
        )
        if job.is_final:
            left = MAX_BYTES - len(json.dumps(result.model_dump(mode="json", by_alias=True)))
            preview = await self._preview(owner, job, files, left * 3 // 4)
            if preview is not None:
                result.content.insert(1, preview)
        return result

    async def _preview(
        self, owner: str, job: JobRecord, files: list[OutputFile], limit: int
    ) -> ImageContent | None:
        """The first picture in at most ``limit`` bytes, or None if it cannot be shown."""
        picture = next((file for file in files if file.kind in _PICTURES), None)
        if picture is None or picture.size > _MAX_SOURCE_BYTES:
            return None
        try:
            content = await self._jobs.read(owner, job.id, picture)
            data, kind = await asyncio.to_thread(_reduced, content, limit)
        except Exception as error:  # whatever Pillow or a store raises: the links are there
            log.info("no preview of %r: %s", picture.name, error, extra=fields(job=job.id))
            return None
        return ImageContent(data=base64.b64encode(data).decode(), mime_type=kind)


def refused(error: ProblemError, name: str) -> CallToolResult:
    """The result of a call that the server refused, in words that a model can act on."""
    problems = for_a_model(error.fields)
    lines = [f"{name} was refused ({error.code}): {error.detail}"]
    if problems:
        shown = [f"- {one.field}: {one.message}" if one.field else f"- {one.message}"
                 for one in problems]  # fmt: skip
        lines = [f"{name} was refused ({error.code}):", *shown]
    seconds = error.headers.get("Retry-After")
    if seconds is not None:
        lines.append(f"Try again in {seconds} s.")
    details = {
        "code": str(error.code),
        "fields": [one.model_dump(exclude_none=True) for one in problems],
        "budget": error.budget,
        "limit": error.limit,
        "scope": error.scope,
    }
    # not in the structured content, which clients hold to the output schema even of an error
    meta: dict[str, Any] = {ERROR_META: {key: value for key, value in details.items() if value}}
    return CallToolResult(content=[TextContent(text="\n".join(lines))], is_error=True, _meta=meta)


def stage_of(job: JobRecord) -> str:
    """What a job does now, in a few words."""
    progress = job.progress
    if job.status == JobStatus.QUEUED:
        ahead = progress.queue_position
        return f"queued, {ahead} ahead" if ahead else "queued"
    if job.status != JobStatus.RUNNING:
        return str(job.status)
    if progress.phase is not None:
        return str(progress.phase).replace("_", " ")
    node = progress.node_title or progress.node_class
    steps = f" {progress.step}/{progress.steps}" if progress.step and progress.steps else ""
    return f"{node}{steps}" if node else "running"


def _files(job: JobRecord) -> Iterator[OutputFile]:
    """The files of a job, in the order of its outputs."""
    for value in (job.outputs or {}).values():
        for item in value if isinstance(value, list) else [value]:
            if _is_file(item):
                yield OutputFile.model_validate(item)


def _is_file(value: JsonValue) -> bool:
    return isinstance(value, dict) and value.get("kind") in FILE_KINDS and "sha256" in value


def _outputs(job: JobRecord, urls: Mapping[str, str]) -> dict[str, JsonValue]:
    """The outputs with absolute links, without files that have none, and with texts cut short."""
    texts = [value for value in (job.outputs or {}).values() if not _has_files(value)]
    share = _MAX_TEXT // max(len(texts), 1)
    return {
        name: _linked(value, urls) if _has_files(value) else _cut(value, share)
        for name, value in (job.outputs or {}).items()
        if value is not None
    }


def _has_files(value: JsonValue) -> bool:
    return any(_is_file(item) for item in value) if isinstance(value, list) else _is_file(value)


def _linked(value: JsonValue, urls: Mapping[str, str]) -> JsonValue:
    if isinstance(value, list):
        return [_linked(item, urls) for item in value if cast("Any", item)["name"] in urls]
    file = OutputFile.model_validate(value)
    return {
        "url": urls.get(file.name, file.url),
        "name": file.name,
        "kind": str(file.kind),
        "content_type": file.content_type,
        "size": file.size,
    }


def _cut(value: JsonValue, limit: int) -> JsonValue:
    """A text or JSON in about ``limit`` characters; a list stays one."""
    if isinstance(value, list):
        kept: list[JsonValue] = []
        for item in value:
            if limit <= 0:
                break
            kept.append(_cut(item, limit))
            limit -= len(_shown(kept[-1])) + 1
        return kept
    text = _shown(value)
    if len(text) <= limit:
        return value
    return f"{text[:limit]}... ({len(text)} characters)"


def _structured(
    job: JobRecord, outputs: dict[str, JsonValue], seeds: dict[str, JsonValue]
) -> dict[str, Any]:
    found: dict[str, Any] = {"job": job.id, "status": str(job.status)}
    if not job.is_final:
        found["progress"] = job.progress.fraction
    if seeds:
        found["seeds"] = seeds
    if outputs:
        found["outputs"] = outputs
    if job.error is not None:
        found["error"] = job.error.model_dump(
            mode="json", include={"code", "detail", "fields"}, exclude_none=True
        )
    return found


def _text(job: JobRecord, outputs: Mapping[str, JsonValue], seeds: Mapping[str, JsonValue]) -> str:
    drawn = "".join(f", {name} {value}" for name, value in seeds.items())
    lines = [f"{job.workflow}: {job.status} ({job.id}{drawn})."]
    if not job.is_final:
        lines.append(
            f"It continues ({stage_of(job)}, {job.progress.fraction:.0%} done). Call {GET_JOB} with"
            f" job={job.id} to wait for it, or {CANCEL_JOB} to stop it."
        )
    if job.error is not None:
        lines.append(f"{job.error.code}: {(job.error.detail or job.error.title)[:4000]}")
        lines += [f"- {one.field}: {one.message}" for one in job.error.fields if one.field]
    for name, value in outputs.items():
        lines += [
            f"{name}: {_described(item)}"
            for item in (value if isinstance(value, list) else [value])
        ]
    total = sum(1 for _ in _files(job))
    if total > _MAX_FILES:
        lines.append(f"{total - _MAX_FILES} more files are listed by /check_status/{job.id}.")
    if total:
        lines.append(f"Links are valid for an hour; {GET_JOB} makes new ones.")
    return "\n".join(lines)


def _described(item: JsonValue) -> str:
    if isinstance(item, dict) and {"url", "content_type", "size"} <= item.keys():
        return f"{item['url']} ({item['content_type']}, {item['size']} bytes)"
    return _shown(item)


def _shown(item: JsonValue) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _reduced(content: bytes, limit: int) -> tuple[bytes, str]:
    """A picture within the size that hosts take, and its type: JPEG, or WebP when it is
    transparent."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
        opened.draft("RGB", (_PREVIEWS[0][0], _PREVIEWS[0][0]))
        clear = opened.has_transparency_data
        image = opened.convert("RGBA" if clear else "RGB")
    kind = "webp" if clear else "jpeg"
    for edge, quality in _PREVIEWS:
        image.thumbnail((edge, edge))
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality)
        if buffer.tell() <= limit:
            return buffer.getvalue(), f"image/{kind}"
    raise ValueError("it cannot be made small enough")
