"""The outputs of a job: files with their hashes, and values that JSON can represent."""

import hashlib
import logging
import math
import re
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
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
from comfysnap_server.engine.protocol import (
    EngineError,
    EngineJob,
    EngineResult,
    NodeOutput,
    ProducedFile,
)

logger = logging.getLogger(__name__)

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


class OutputCollector:
    """Collects the outputs of a job in a folder where no node reads or writes.

    Args:
        job: The job; its files are in ``output_dir``.
        folder: Folder for the files, on the same disk.
    """

    def __init__(self, job: EngineJob, folder: Path) -> None:
        self._job = job
        self._files = _Files(job, folder)
        self.collected: dict[str, JobOutput] = {}
        """What is complete so far, by name."""

    def early(self, output: NodeOutput) -> JobOutput | None:
        """Collect an output while nodes still run. Files are copied, since a node may read or
        change them. None if it cannot be collected yet, or was before."""
        if output.name in self.collected:
            return None
        try:
            with self._files.copying():
                made = self._collect(output.name, output.items)
        except (EngineError, OSError) as error:
            logger.info("job %s: output %r comes later: %s", self._job.job_id, output.name, error)
            return None
        return made

    def finish(self, result: EngineResult) -> dict[str, JobOutput]:
        """Collect the rest of the outputs; what was collected early stays as it is.

        Raises:
            EngineError: ``output_missing``: an output node produced nothing; ``engine_failed``: a
                file is outside the job's output folder.
        """
        failure: EngineError | None = None
        for name in self._job.outputs:
            try:
                if name not in self.collected:
                    self._collect(name, result.outputs.get(name, []))
            except EngineError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self.collected = {name: self.collected[name] for name in self._job.outputs}
        return self.collected

    def _collect(self, name: str, items: list[ProducedFile] | list[JsonValue]) -> JobOutput:
        spec = self._job.outputs[name]
        made = _job_output(self._job, name, spec, items, self._files)
        self.collected[name] = made
        return made


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
    """Takes each file of the job's output folder once, under a unique name."""

    def __init__(self, job: EngineJob, folder: Path) -> None:
        self._job = job
        self._root = job.output_dir.resolve()
        self._folder = folder
        self._taken: dict[Path, tuple[_FileState, OutputFile]] = {}
        self._names: set[str] = set()
        self._copies = False

    @contextmanager
    def copying(self) -> Generator[None]:
        """Leave the files of the output folder where they are."""
        self._copies = True
        try:
            yield
        finally:
            self._copies = False

    def take(self, file: ProducedFile) -> OutputFile:
        source = file.path.resolve()
        known = self._taken.get(source)
        state = _state_of(source)
        if known is None or (state is not None and state != known[0]):
            known = self._taken[source] = (state, self._keep(source, file))
        return known[1].model_copy(update={"kind": file.kind})

    def _keep(self, source: Path, file: ProducedFile) -> OutputFile:
        if not source.is_relative_to(self._root) or not source.is_file():
            raise EngineError(
                ErrorCode.ENGINE_FAILED, f"{file.path.name} is outside the job's output folder"
            )
        name = self._free_name(source)
        target = self._folder / name
        if self._copies:
            try:
                shutil.copyfile(source, target)
            except OSError:
                target.unlink(missing_ok=True)
                self._names.discard(name)
                raise
        else:
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
        while name in self._names:
            count += 1
            stem, dot, suffix = wanted.rpartition(".")
            name = f"{stem}_{count}{dot}{suffix}" if stem else f"{wanted}_{count}"
        self._names.add(name)
        return name


_FileState = tuple[int, int] | None
"""Size and time of the last change; None for a file that is gone."""


def _state_of(path: Path) -> _FileState:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


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
