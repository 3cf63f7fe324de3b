"""The outputs of a job: files with their hashes, and values that JSON can represent."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, JsonValue

from comfysnap_schema.comfy import title_of
from comfysnap_schema.wire import (
    FILE_KINDS,
    KINDS,
    OUTPUTS,
    ErrorCode,
    FieldProblem,
    Kind,
    OutputFile,
    content_type_of,
    kind_fits,
)
from comfysnap_schema.workflow import OutputSpec
from comfysnap_server.engine.protocol import EngineError, EngineJob, EngineResult, ProducedFile

MAX_NAME: Final = 128
MAX_SUFFIX: Final = 16
"""Maximum length of a suffix; a longer one counts as part of the name."""
MAX_DEPTH: Final = 100
"""Maximum depth of a JSON output; JSON parsers fail at about 200."""
_CHUNK: Final = 1024 * 1024


class JobOutput(BaseModel, frozen=True):
    """One output of a job: its files, or for texts and JSON the values; never empty."""

    files: tuple[OutputFile, ...] = ()
    values: tuple[JsonValue, ...] = ()
    many: bool = False

    def on_wire(self) -> JsonValue:
        """The output in a job's record: one item, or a list with ``many``."""
        files: list[JsonValue] = [file.model_dump(mode="json") for file in self.files]
        items = files or [*self.values]
        return items if self.many else items[0]


def job_outputs(job: EngineJob, result: EngineResult) -> dict[str, JobOutput]:
    """Collect the outputs of a job; files are moved to ``output_dir/<name>``.

    Raises:
        EngineError: ``output_missing``: an output node produced nothing; ``engine_failed``: a file
            is outside the job's output folder.
    """
    files = _Files(job)
    return {
        name: _job_output(job, name, spec, result.outputs.get(name, []), files)
        for name, spec in job.outputs.items()
    }


def _job_output(
    job: EngineJob,
    name: str,
    spec: OutputSpec,
    items: list[ProducedFile] | list[JsonValue],
    files: "_Files",
) -> JobOutput:
    wanted = items if spec.many else items[:1]
    is_file = spec.kind in FILE_KINDS
    made = JobOutput(
        files=tuple(files.take(i) for i in wanted if is_file and isinstance(i, ProducedFile)),
        values=tuple(
            _sendable(name, i) for i in wanted if not (is_file or isinstance(i, ProducedFile))
        ),
        many=spec.many,
    )
    if not made.files and not made.values:
        what = title_of(job.graph, spec.node) if spec.node in job.graph else spec.node
        message = f"node {spec.node} ({what}) did not produce a {spec.kind} for the output {name!r}"
        raise EngineError(
            ErrorCode.OUTPUT_MISSING,
            message,
            fields=(FieldProblem(message=message, node=spec.node),),
        )
    return made


def _sendable(name: str, value: JsonValue, depth: int = 0) -> JsonValue:
    """Replace what JSON cannot represent: lone surrogates (from file names that are not UTF-8), NaN
    and infinity."""
    if depth > MAX_DEPTH:
        raise EngineError(
            ErrorCode.ENGINE_FAILED, f"the output {name!r} is nested deeper than {MAX_DEPTH} levels"
        )
    match value:
        case str():
            return value if value.isascii() else value.encode(errors="replace").decode()
        case list():
            return [_sendable(name, item, depth + 1) for item in value]
        case dict():
            return {
                key.encode(errors="replace").decode(): _sendable(name, item, depth + 1)
                for key, item in value.items()
            }
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


class _Files:
    """Moves each file once, to a unique name."""

    def __init__(self, job: EngineJob) -> None:
        self._job = job
        self._root = job.output_dir.resolve()
        self._moved: dict[Path, OutputFile] = {}
        self._names: set[str] = set()

    def take(self, file: ProducedFile) -> OutputFile:
        source = file.path.resolve()
        if source not in self._moved:
            self._moved[source] = self._move(source, file)
        return self._moved[source].model_copy(update={"kind": file.kind})

    def _move(self, source: Path, file: ProducedFile) -> OutputFile:
        if not source.is_relative_to(self._root) or not source.is_file():
            raise EngineError(
                ErrorCode.ENGINE_FAILED, f"{file.path.name} is outside the job's output folder"
            )
        name = self._free_name(source)
        target = self._root / name
        if target != source:
            source.rename(target)
        size, sha256 = hash_file(target)
        return OutputFile(
            name=name,
            kind=file.kind,
            content_type=file.content_type or content_type_of(name),
            size=size,
            sha256=sha256,
            url=f"{OUTPUTS}/{self._job.job_id}/{name}",
        )

    def _free_name(self, source: Path) -> str:
        wanted = safe_name(source.name)
        name, count = wanted, 1
        while name in self._names or ((self._root / name) != source and self._taken(name)):
            count += 1
            stem, dot, suffix = wanted.rpartition(".")
            name = f"{stem}_{count}{dot}{suffix}" if stem else f"{wanted}_{count}"
        self._names.add(name)
        return name

    def _taken(self, name: str) -> bool:
        return (self._root / name).exists()


def safe_name(name: str) -> str:
    """Replace characters that need quoting in a URL or a shell."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "file"
    stem, dot, suffix = clean.rpartition(".")
    if not stem or len(suffix) > MAX_SUFFIX:
        return clean[:MAX_NAME]
    return f"{stem[: MAX_NAME - len(suffix) - 1]}{dot}{suffix}"


def output_files(
    specs: Mapping[str, OutputSpec], outputs: Mapping[str, JsonValue]
) -> Iterator[OutputFile]:
    """The files among the outputs in a job's record, as its workflow declares them."""
    for name, spec in specs.items():
        if spec.kind in FILE_KINDS and (value := outputs.get(name)):
            for item in value if isinstance(value, list) else [value]:
                yield OutputFile.model_validate(item)


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def kind_of(path: Path) -> Kind:
    """The kind of a file name."""
    return next((kind for kind in KINDS if kind_fits(path.name, kind)), Kind.FILE)
