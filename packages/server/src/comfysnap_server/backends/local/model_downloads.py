"""Downloads the models that jobs name by URL before the jobs are queued: no worker and no other job
waits for them, and no node pack sees their tokens."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from comfysnap_schema.wire import JobStatus, Phase, Progress
from comfysnap_server.backends.local.live import LiveJob
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import Ending, Outcome, ended
from comfysnap_server.models import RemoteModelSettings, Stop

if TYPE_CHECKING:
    from comfysnap_server.models.remote import RemoteModels

logger = logging.getLogger(__name__)

MAX_DOWNLOADING: Final = 4
"""Jobs that download at once; each has a thread."""
_REPORT_S: Final = 0.2
_RETRY_S: Final = 1.0


class ModelDownloads:
    """The jobs whose models are not there yet.

    Args:
        folder: Of the cache; made when a job first needs it.
        settings: What may be downloaded.
        ready: Takes a job that has its models.
        end: Ends a job that does not get them.
    """

    def __init__(
        self,
        folder: Path,
        settings: RemoteModelSettings,
        *,
        ready: Callable[[LiveJob], None],
        end: Callable[[LiveJob, Outcome], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._ready = ready
        self._end = end
        self._places = asyncio.Semaphore(MAX_DOWNLOADING)
        self._running: dict[str, tuple[asyncio.Task[None], Stop]] = {}
        self._models: RemoteModels | None = None
        self._making = threading.Lock()

    def start(self, live: LiveJob) -> None:
        """Have a job's models downloaded, unless that is under way."""
        job_id = live.record.id
        live.taken = False
        if job_id not in self._running:
            stop = Stop()
            task = asyncio.create_task(self._run(live, stop), name=f"models-of-{job_id}")
            self._running[job_id] = task, stop
            task.add_done_callback(lambda _: self._running.pop(job_id, None))

    def ended(self, live: LiveJob) -> None:
        """A job is over: stop its downloads, and let others have its place in the cache."""
        if not live.models:
            return
        task, stop = self._running.get(live.record.id, (None, None))
        if stop is not None:
            stop.set()
        if task is None and self._models is not None:
            self._models.cache.release(live.record.id)

    async def close(self) -> None:
        """Stop all downloads; the jobs stay where they are."""
        tasks = [task for task, _ in self._running.values()]
        for task, stop in list(self._running.values()):
            stop.set()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, live: LiveJob, stop: Stop) -> None:
        from comfysnap_server.models.remote import RemoteModelError

        outcome: Outcome | None = None
        try:
            async with self._places, asyncio.timeout(live.timeout):
                live.hashes = await self._in_thread(live, stop)
        except TimeoutError:
            outcome = ended(Ending.TIMED_OUT)
        except RemoteModelError as error:
            outcome = Outcome(status=JobStatus.FAILED, error=error.problem)
        except Exception:
            logger.exception("models of job %s could not be downloaded", live.record.id)
            outcome = ended(Ending.INTERNAL)
        finally:
            stop.set()
        if live.taken:
            self._release(live)
        elif outcome is not None:
            await self._end_surely(live, outcome)
            self._release(live)
        else:
            if live.record.progress.phase is not None:
                live.advance(Progress())
            self._ready(live)

    async def _end_surely(self, live: LiveJob, outcome: Outcome) -> None:
        while not live.taken:
            live.taken = True
            try:
                await self._end(live, outcome)
            except BackendError:
                logger.exception("the end of job %s cannot be written yet", live.record.id)
                await asyncio.sleep(_RETRY_S)

    def _release(self, live: LiveJob) -> None:
        if self._models is not None:
            self._models.cache.release(live.record.id)

    def _in_thread(self, live: LiveJob, stop: Stop) -> asyncio.Future[dict[str, str]]:
        """Download in a thread that nobody waits for when the process ends."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[dict[str, str]] = loop.create_future()
        progress = _Reports(loop, live, stop)

        def run() -> None:
            found: dict[str, str] | Exception
            try:
                found = self._made().fetch(
                    live.models, live.record.id, lease=float("inf"), progress=progress, stop=stop
                )
            except Exception as error:
                found = error
            with suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(self._deliver, live, result, found)

        threading.Thread(target=run, name="model-download", daemon=True).start()
        return result

    def _deliver(
        self,
        live: LiveJob,
        result: asyncio.Future[dict[str, str]],
        found: dict[str, str] | Exception,
    ) -> None:
        if result.done():  # nobody waits any more
            if live.taken:
                self._release(live)
        elif isinstance(found, Exception):
            result.set_exception(found)
        else:
            result.set_result(found)

    def _made(self) -> "RemoteModels":
        from comfysnap_server.models.cache import ModelCache
        from comfysnap_server.models.remote import RemoteModels

        with self._making:
            if self._models is None:
                cache = ModelCache(self._folder, self._settings.cache_bytes)
                cache.release_all()  # of jobs of a server that was killed
                self._models = RemoteModels(cache, self._settings)
            return self._models


class _Reports:
    """Publishes the first news, the last bytes, and what is between a few times a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, live: LiveJob, stop: Stop) -> None:
        self._loop, self._live, self._stop = loop, live, stop
        self._reported = float("-inf")

    def __call__(self, done: int, total: int | None) -> None:
        """Take news from the downloading thread."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_S or done == total:
            self._reported = now
            with suppress(RuntimeError):  # the server has stopped
                self._loop.call_soon_threadsafe(self._show, done, total)

    def _show(self, done: int, total: int | None) -> None:
        if not self._live.taken and not self._stop.is_set():
            phase = Phase.DOWNLOADING_MODELS
            self._live.advance(Progress(phase=phase, bytes_done=done, bytes_total=total))
