"""Output files in an object store: S3, R2 and others that speak S3; needs the extra ``store``."""

# obstore's stubs leave the types of its listings partly unknown
# pyright: reportUnknownMemberType=false

import asyncio
import configparser
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, Field, JsonValue

from comfysnap_schema.wire import OUTPUTS, ErrorCode, JobRecord, JobStatus, OutputFile
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs.endings import Ending
from comfysnap_server.jobs.run import Outcome, ended

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CREDENTIALS_FILE: Final = "AWS_SHARED_CREDENTIALS_FILE"
_PROFILE: Final = "AWS_PROFILE"
_REREAD: Final = timedelta(minutes=1)
_PART_BYTES: Final = 8 * 1024 * 1024


class OutputStoreError(BackendError):
    """The object store cannot be reached, or refuses; ``unavailable``."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, detail, retry_after=60)


class OutputStoreSettings(BaseModel, frozen=True, extra="forbid"):
    """``[serve.outputs]``: where output files are kept. Times in seconds."""

    store: Annotated[str, Field(pattern=r"^[a-z0-9]+://[^/\s]+(/\S*)?$")] | None = None
    """``s3://bucket/prefix``. None: in the data folder, or on the volume. ``gs://`` and ``az://``
    are passed to the same library and were not tested."""
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """URL of a store other than Amazon's: ``https://ACCOUNT.r2.cloudflarestorage.com``."""
    region: str | None = None
    """``auto`` for R2. None: ``AWS_REGION``."""
    link_seconds: Annotated[int, Field(ge=60, le=7 * 24 * 3600)] = 3600
    """How long a link is valid. Each time a job is read, its files get new links."""
    when_down: Literal["wait", "fail"] = "wait"
    """If a job's files cannot be stored: ``wait`` until they can be, or ``fail`` the job."""
    secret: str | None = None
    """Modal secret with the credentials."""


def open_output_store(settings: OutputStoreSettings) -> "OutputStore | None":
    """The object store of ``[serve.outputs]``; None when files stay where jobs run.

    Raises:
        ValueError: The extra ``store`` is not installed.
    """
    return None if settings.store is None else OutputStore(settings.store, settings)


class OutputStore:
    """One bucket, or a part of one; its files are at ``JOB/NAME``.

    Credentials are those of ``AWS_SHARED_CREDENTIALS_FILE``, which is read again every minute, of
    the AWS SDKs' other environment variables, or of the machine's role.

    Args:
        url: ``store`` of the settings.
        settings: The rest of them.

    Raises:
        ValueError: The extra ``store`` is not installed, or the address is none.
    """

    def __init__(self, url: str, settings: OutputStoreSettings) -> None:
        self._url = url
        self._settings = settings
        self._expiry = timedelta(seconds=settings.link_seconds)
        try:
            import_module("obstore")  # now, so that a memory snapshot holds it
        except ImportError as error:
            raise ValueError(
                "[serve.outputs] store needs the extra: pip install 'comfysnap-server[store]'"
            ) from error

    @cached_property
    def _store(self) -> "ObjectStore":
        """Made when it is first used: after a restore, so that no snapshot holds credentials."""
        return _connect(self._url, self._settings)

    @property
    def waits(self) -> bool:
        """Whether a job waits for a store that is down, instead of failing."""
        return self._settings.when_down == "wait"

    async def put(self, job_id: str, folder: Path, files: Iterable[OutputFile]) -> None:
        """Store the files of a job; storing them again replaces them.

        Raises:
            OutputStoreError: Not all of them could be stored.
        """
        import obstore

        for file in files:
            attributes = {
                "Content-Type": file.content_type,
                "Cache-Control": "private, max-age=31536000, immutable",
            }
            with _errors():
                await obstore.put_async(
                    self._store,
                    f"{job_id}/{file.name}",
                    folder / file.name,
                    attributes=cast("Any", attributes),
                    chunk_size=_PART_BYTES,
                )

    async def link(self, job_id: str, name: str) -> str:
        """A URL that opens a file for ``link_seconds``, without a key.

        Raises:
            OutputStoreError: There are no credentials.
        """
        return (await self._sign([f"{job_id}/{name}"]))[0]

    async def with_links(self, job: JobRecord) -> JobRecord:
        """A job that succeeded, with links in place of the gateway's own URLs; outputs of others
        were not stored.

        Raises:
            OutputStoreError: There are no credentials.
        """
        outputs = job.outputs if job.status == JobStatus.SUCCEEDED else None
        places = [file for value in (outputs or {}).values() for file in _files(job.id, value)]
        if not places or outputs is None:
            return job
        signed = await self._sign([f"{job.id}/{file['name']}" for file in places])
        links = {file["url"]: link for file, link in zip(places, signed, strict=True)}
        linked = {name: _linked(job.id, value, links) for name, value in outputs.items()}
        return job.model_copy(update={"outputs": linked})

    async def delete(self, job_ids: Iterable[str]) -> None:
        """Delete the files of jobs.

        Raises:
            OutputStoreError: Not all of them could be deleted.
        """
        import obstore

        with _errors():
            for job_id in job_ids:
                async for found in obstore.list(self._store, prefix=f"{job_id}/"):
                    await obstore.delete_async(self._store, [entry["path"] for entry in found])

    async def oldest_jobs(self, is_old: Callable[[str], bool]) -> list[str]:
        """Jobs with files, by id, until the first that is not old; ids sort by time.

        Raises:
            OutputStoreError: They could not be listed.
        """
        import obstore

        found: dict[str, None] = {}
        with _errors():
            async for entries in obstore.list(self._store):
                for job_id in (entry["path"].partition("/")[0] for entry in entries):
                    if not is_old(job_id):
                        return [*found]
                    found[job_id] = None
        return [*found]

    async def problem(self) -> str | None:
        """Why files could not be stored now; None when the store answers."""
        import obstore

        try:
            with _errors():
                await obstore.list_with_delimiter_async(self._store, prefix="job_0")
        except OutputStoreError as error:
            return str(error)
        return None

    async def _sign(self, paths: list[str]) -> list[str]:
        import obstore

        with _errors():
            return [*await obstore.sign_async(cast("Any", self._store), "GET", paths, self._expiry)]


async def keep_outputs(
    store: OutputStore,
    job_id: str,
    folder: Path,
    outcome: Outcome,
    *,
    stopped: Callable[[], bool],
    told: Callable[[str | None], object] = lambda _: None,
) -> Outcome:
    """Store the files of a job that succeeded; what then becomes of the job.

    Args:
        store: Where to.
        job_id: The job.
        folder: Where its files are.
        outcome: How its graph ended.
        stopped: Whether the job is to stop; asked between two attempts.
        told: Called with the reason of each attempt that failed, and with None at last.
    """
    files = outcome.files if outcome.status is JobStatus.SUCCEEDED else []
    pauses = iter(_pauses())
    while files and not stopped():
        try:
            await store.put(job_id, folder, files)
        except OutputStoreError as error:
            if not store.waits:
                return ended(Ending.OUTPUT_NOT_STORED)
            told(str(error))
            await asyncio.sleep(next(pauses))
        else:
            told(None)
            return outcome
    return ended(Ending.INTERRUPTED) if files else outcome


def _pauses() -> Iterator[float]:
    """Seconds between attempts."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(seconds * 2, 3.0)  # a stop waits for it


def _connect(url: str, settings: OutputStoreSettings) -> "ObjectStore":
    from obstore.store import from_url

    if not url.startswith("s3://"):
        return from_url(url)
    config: dict[str, Any] = {"disable_bulk_delete": True}  # not all that speak S3 have it
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
    if settings.region is not None:
        config["region"] = settings.region
    given = os.environ.get(_CREDENTIALS_FILE)
    return from_url(
        url,
        config=cast("Any", config),
        client_options={"allow_http": (settings.endpoint or "").startswith("http://")},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        credential_provider=_CredentialsFile(Path(given)) if given else None,
    )


class _CredentialsFile:
    """Reads the file again every minute, so that rotated keys need no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> Any:
        parser = configparser.ConfigParser()
        parser.read_string(self._path.read_text())
        profile = parser[os.environ.get(_PROFILE, "default")]
        return {
            "access_key_id": profile["aws_access_key_id"],
            "secret_access_key": profile["aws_secret_access_key"],
            "token": profile.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + _REREAD,
        }


@contextmanager
def _errors() -> Generator[None]:
    """Library errors as ours; their text names no credentials."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise OutputStoreError(f"the object store failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _files(job_id: str, value: JsonValue) -> list[dict[str, Any]]:
    """The files that the gateway of this job would serve, in one output."""
    items = value if isinstance(value, list) else [value]
    return [cast("dict[str, Any]", item) for item in items if _is_file(job_id, item)]


def _is_file(job_id: str, item: JsonValue) -> bool:
    return (
        isinstance(item, dict)
        and set(item) == set(OutputFile.model_fields)
        and item["url"] == f"{OUTPUTS}/{job_id}/{item['name']}"
    )


def _linked(job_id: str, value: JsonValue, links: Mapping[str, str]) -> JsonValue:
    if isinstance(value, list):
        return [_linked(job_id, item, links) for item in value]
    if not _is_file(job_id, value):
        return value
    file = cast("dict[str, Any]", value)
    return {**file, "url": links[file["url"]]}
