"""Models that jobs name by URL: one container on CPU downloads them into a volume, and the GPU
container that needs them copies them to its own disk."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel

from comfysnap_schema.wire import ErrorCode, FieldProblem, JobStatus, Phase, Problem, Progress
from comfysnap_server.backends.modal.platform import Feed, SharedFolder
from comfysnap_server.backends.modal.reporting import FeedReporter
from comfysnap_server.jobs import JobRequest, Outcome, RemoteModel, problem
from comfysnap_server.models import ModelError, RemoteModelSettings, Stop

if TYPE_CHECKING:
    from comfysnap_server.models.cache import ModelCache
    from comfysnap_server.models.remote import RemoteModels

log = logging.getLogger(__name__)

LEASE_MARGIN_S: Final = 600.0
"""How much longer than its job may run a model stays for it."""
DOWNLOAD_ENTRIES: Final = 1_000_000
"""Numbers of the entries in a job's feed that its download may use; the worker goes on after."""


class Wanted(BaseModel, frozen=True):
    """The models of one attempt at a job."""

    job_id: str
    attempt: int
    timeout: float
    models: dict[str, RemoteModel]


class Fetched(BaseModel, frozen=True):
    """What became of them."""

    hashes: dict[str, str] | None = None
    """Placeholder to SHA-256; None: see ``error``."""
    error: Problem | None = None


class Fetcher(Protocol):
    """The function on CPU."""

    async def fetch(self, wanted: str) -> str:
        """Download ``Wanted`` into the volume, and say what became of it (``Fetched``); both are
        JSON. A cancellation stops the download."""
        ...


async def fetch_into(
    wanted: Wanted, models: "RemoteModels", folder: SharedFolder, feed: Feed
) -> Fetched:
    """Download models into the volume, and commit them. Only one container does this at a time, so
    that none overwrites the notes of another.

    Args:
        wanted: The models.
        models: With its cache in ``folder``.
        folder: The volume, mounted.
        feed: Where the progress goes.
    """
    stop = Stop()
    reporter = FeedReporter(feed, wanted.job_id, wanted.attempt)

    def show(done: int, total: int | None) -> None:
        reporter.report(downloading(done, total))

    def fetch() -> dict[str, str]:
        lease = wanted.timeout + LEASE_MARGIN_S
        return models.fetch(wanted.models, wanted.job_id, lease=lease, progress=show, stop=stop)

    from comfysnap_server.models.remote import RemoteModelError

    try:
        hashes = await asyncio.to_thread(fetch)
        await folder.commit()
    except RemoteModelError as error:
        return Fetched(error=error.problem)
    finally:
        stop.set()
        await reporter.close(ended=False)
    return Fetched(hashes=hashes)


def downloading(done: int | None = None, total: int | None = None) -> Progress:
    """The progress of a job that waits for its models."""
    return Progress(phase=Phase.DOWNLOADING_MODELS, bytes_done=done, bytes_total=total)


class WorkerModels:
    """The models of the jobs of one GPU container.

    ComfyUI reads copies on the container's own disk: it keeps files open for as long as it keeps a
    model, and Modal does not show new files of a volume while one of it is open.

    Args:
        fetcher: Downloads into the volume.
        volume: The volume, mounted.
        local: Folder for the copies, made when a job first needs it.
        settings: Bounds of the copies too.
    """

    def __init__(
        self, fetcher: Fetcher, volume: SharedFolder, local: Path, settings: RemoteModelSettings
    ) -> None:
        self._fetcher = fetcher
        self._volume = volume
        self._local = local
        self._settings = settings
        self._copies: ModelCache | None = None

    async def prepare(
        self, job: JobRequest, attempt: int, reporter: FeedReporter
    ) -> dict[str, str] | Outcome:
        """Have the models of a job in place; an outcome where they cannot be had.

        Returns:
            Placeholder to SHA-256.

        Raises:
            TimeoutError: It took longer than the job may run.
        """
        reporter.report(downloading())
        wanted = Wanted(job_id=job.job_id, attempt=attempt, timeout=job.timeout, models=job.models)
        async with asyncio.timeout(job.timeout):
            found = await self._fetch(job, wanted)
            if isinstance(found, Outcome):
                return found
            outcome = await self._copy(job, found)
        reporter.skip(DOWNLOAD_ENTRIES)
        reporter.report(Progress())
        return outcome or found

    def release(self, job_id: str) -> None:
        """A job is over; its copies may make room."""
        if self._copies is not None:
            self._copies.release(job_id)

    async def _fetch(self, job: JobRequest, wanted: Wanted) -> dict[str, str] | Outcome:
        try:
            answer = await self._fetcher.fetch(wanted.model_dump_json())
        except Exception:
            log.exception("models of job %s: the function on CPU failed", job.job_id)
            return _failed(job, "the download was lost")
        found = Fetched.model_validate_json(answer)
        if found.hashes is None:
            return Outcome(status=JobStatus.FAILED, error=found.error)
        return found.hashes

    async def _copy(self, job: JobRequest, hashes: Mapping[str, str]) -> Outcome | None:
        stop = Stop()
        try:
            if not await asyncio.to_thread(self._are_visible, job, hashes):
                await self._volume.reload()
            await asyncio.to_thread(self._copy_all, job, hashes, stop.is_set)
        except (ModelError, OSError) as error:
            log.warning("models of job %s cannot be copied: %s", job.job_id, error)
            message = error.message if isinstance(error, ModelError) else "cannot be copied here"
            return _failed(job, message)
        finally:
            stop.set()
        return None

    def _are_visible(self, job: JobRequest, hashes: Mapping[str, str]) -> bool:
        from comfysnap_server.models.cache import path_in

        root = self._volume.root
        return all(
            path_in(root, job.models[name].folder, digest).is_file()
            for name, digest in hashes.items()
        )

    def _copy_all(
        self, job: JobRequest, hashes: Mapping[str, str], stop: Callable[[], bool]
    ) -> None:
        from comfysnap_server.models.cache import CachedModel, ModelCache, path_in

        if self._copies is None:
            self._copies = ModelCache(self._local, self._settings.cache_bytes)
        for name, digest in hashes.items():
            model = CachedModel(job.models[name].folder, digest)
            source = path_in(self._volume.root, model.folder, digest)
            with self._copies.downloading(model.key, stop):
                if not self._copies.lease(model, job.job_id, float("inf")):
                    self._copies.reserve(model.key, source.stat().st_size)
                    shutil.copyfile(source, self._copies.part(model.key).path)
                    self._copies.place(model.key, model, job.job_id, float("inf"))


def refused(job: JobRequest) -> Outcome:
    """The end of a job that was accepted before URLs were turned off."""
    return _failed(job, "this server takes no URLs of models", ErrorCode.MODEL_REFUSED)


def _failed(
    job: JobRequest, message: str, code: ErrorCode = ErrorCode.MODEL_UNAVAILABLE
) -> Outcome:
    fields = tuple(
        FieldProblem(field=model.field, message=message) for model in job.models.values()
    )
    error = problem(code, message).model_copy(update={"fields": fields})
    return Outcome(status=JobStatus.FAILED, error=error)
