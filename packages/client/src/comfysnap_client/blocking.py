"""The blocking client, for scripts, notebooks and threads.

It runs the async client in a background thread.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Generator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

from comfysnap_client import client as asynchronous
from comfysnap_client.client import ClientOptions
from comfysnap_client.dynamic import JobOutput, UntypedOutput
from comfysnap_client.job import Job as AsyncJob
from comfysnap_client.mapping import MapResult
from comfysnap_client.session import OnProgress
from comfysnap_schema.base import WorkflowInput, WorkflowOutput
from comfysnap_schema.wire import (
    DEFAULT_LINK_S,
    ImageFile,
    JobEvent,
    JobRecord,
    JobStatus,
    Limits,
    OutputFile,
    WorkflowDetail,
    WorkflowSummary,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Client", "Job"]

T = TypeVar("T")
OutputT = TypeVar("OutputT", bound=WorkflowOutput)
OutputT_co = TypeVar("OutputT_co", bound=WorkflowOutput, covariant=True)

INTERRUPT_S = 6.0
"""Maximum seconds that an interrupted call may take to cancel its job."""


class Job(Generic[OutputT_co]):
    """Blocking version of ``comfysnap_client.Job``::

        job = client.infer_async(FluxInput(prompt="a fox"))
        output = job.result(timeout=60)

    Attributes:
        id: The job's ID.
    """

    def __init__(self, portal: "_Portal", job: AsyncJob[OutputT_co]) -> None:
        self.id: str = job.id
        self._portal = portal
        self._job = job

    def __repr__(self) -> str:
        """``<Job job_... running>``."""
        return repr(self._job)

    @property
    def record(self) -> JobRecord | None:
        """The last known state of the job, or None before the first response."""
        return self._job.record

    def status(self, *, timeout: float | None = None) -> JobRecord:
        """Like ``comfysnap_client.Job.status``."""
        return self._portal.run(self._job.status(timeout=timeout))

    def wait(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobRecord:
        """Like ``comfysnap_client.Job.wait``; Ctrl-C is treated like a cancelled task."""
        return self._portal.run(
            self._job.wait(
                timeout=timeout, cancel_on_timeout=cancel_on_timeout, on_progress=on_progress
            )
        )

    def result(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> OutputT_co:
        """Like ``comfysnap_client.Job.result``; Ctrl-C is treated like a cancelled task."""
        return self._portal.run(
            self._job.result(
                timeout=timeout, cancel_on_timeout=cancel_on_timeout, on_progress=on_progress
            )
        )

    def cancel(self, *, timeout: float | None = None) -> JobRecord:
        """Like ``comfysnap_client.Job.cancel``."""
        return self._portal.run(self._job.cancel(timeout=timeout))

    def link(
        self,
        output: OutputFile | str | None = None,
        *,
        expires_in: int = DEFAULT_LINK_S,
        timeout: float | None = None,
    ) -> str:
        """Like ``comfysnap_client.Job.link``."""
        return self._portal.run(self._job.link(output, expires_in=expires_in, timeout=timeout))

    def events(self) -> Generator[JobEvent]:
        """Like ``comfysnap_client.Job.events``."""
        return self._portal.iterate(self._job.events())

    def outputs(self) -> Generator[JobOutput]:
        """Like ``comfysnap_client.Job.outputs``; download files with the client::

        for output in job.outputs():
            for file in output.files:
                client.save(file, "out")
        """
        return self._portal.iterate(self._job.outputs())


class Client:
    """Blocking version of ``comfysnap_client.Client``.

    Use it as a context manager, or call ``close``::

        with Client("http://127.0.0.1:8000") as client:
            output = client.infer_sync(FluxInput(prompt="a fox"))
            client.save(output.images[0], "fox.png")

    It can be shared by threads, and used while an event loop is running, as in a notebook.
    ``on_progress`` is called in the client's background thread.

    Args:
        base_url: URL of the server, including its path prefix if it has one.
        options: Like those of ``comfysnap_client.Client``.

    Raises:
        ValueError: An argument is not valid.
    """

    def __init__(self, base_url: str, **options: Unpack[ClientOptions]) -> None:
        self._start(asynchronous.Client(base_url, **options))

    @classmethod
    def from_env(cls, *, base_url: str | None = None, **options: Unpack[ClientOptions]) -> Self:
        """Like ``comfysnap_client.Client.from_env``."""
        client = cls.__new__(cls)
        client._start(asynchronous.Client.from_env(base_url=base_url, **options))
        return client

    def _start(self, client: asynchronous.Client) -> None:
        self._client = client
        self._portal = _Portal()

    def __repr__(self) -> str:
        """The base URL, without keys."""
        return repr(self._client)

    def __enter__(self) -> Self:
        """Return the client; connections are opened by the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; see ``close``."""
        self.close()

    def close(self) -> None:
        """Close all connections and stop the background thread. Idempotent.

        Example::

            client = Client(url)
            client.close()
        """
        if not self._portal.closed:
            try:
                self._portal.run(self._client.aclose())
            finally:
                self._portal.close()

    @property
    def base_url(self) -> str:
        """URL of the server."""
        return self._client.base_url

    def infer_sync(
        self,
        inputs: WorkflowInput[OutputT],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> OutputT:
        """Like ``comfysnap_client.Client.infer_sync``; Ctrl-C is treated like a cancelled task."""
        return self._portal.run(
            self._client.infer_sync(
                inputs, timeout=timeout, job_timeout=job_timeout, labels=labels, webhook=webhook,
                idempotency_key=idempotency_key, cancel_on_timeout=cancel_on_timeout,
                on_progress=on_progress,
            )
        )  # fmt: skip

    def infer_async(
        self,
        inputs: WorkflowInput[OutputT],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        previews: bool = False,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
    ) -> Job[OutputT]:
        """Like ``comfysnap_client.Client.infer_async``."""
        job = self._portal.run(
            self._client.infer_async(
                inputs, timeout=timeout, job_timeout=job_timeout, labels=labels, webhook=webhook,
                previews=previews, idempotency_key=idempotency_key,
                cancel_on_timeout=cancel_on_timeout,
            )
        )  # fmt: skip
        return Job(self._portal, job)

    def check_status(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """Like ``comfysnap_client.Client.check_status``."""
        return self._portal.run(self._client.check_status(job_id, timeout=timeout))

    def cancel(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """Like ``comfysnap_client.Client.cancel``."""
        return self._portal.run(self._client.cancel(job_id, timeout=timeout))

    @overload
    def job(self, job_id: str) -> Job[UntypedOutput]: ...
    @overload
    def job(self, job_id: str, output: type[OutputT]) -> Job[OutputT]: ...
    def job(self, job_id: str, output: type[WorkflowOutput] = UntypedOutput) -> Job[WorkflowOutput]:
        """Like ``comfysnap_client.Client.job``."""
        return Job(self._portal, self._client.job(job_id, output))

    def jobs(
        self,
        *,
        status: JobStatus | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Generator[JobRecord]:
        """Like ``comfysnap_client.Client.jobs``."""
        return self._portal.iterate(
            self._client.jobs(status=status, workflow=workflow, labels=labels, timeout=timeout)
        )

    def workflow(self, name: str, *, timeout: float | None = None) -> WorkflowDetail:
        """Like ``comfysnap_client.Client.workflow``."""
        return self._portal.run(self._client.workflow(name, timeout=timeout))

    def workflows(self, *, timeout: float | None = None) -> list[WorkflowSummary]:
        """Like ``comfysnap_client.Client.workflows``."""
        return self._portal.run(self._client.workflows(timeout=timeout))

    def limits(self, *, timeout: float | None = None) -> Limits:
        """Like ``comfysnap_client.Client.limits``."""
        return self._portal.run(self._client.limits(timeout=timeout))

    def link(
        self,
        job_id: str,
        output: OutputFile | str | None = None,
        *,
        expires_in: int = DEFAULT_LINK_S,
        timeout: float | None = None,
    ) -> str:
        """Like ``comfysnap_client.Client.link``."""
        return self._portal.run(
            self._client.link(job_id, output, expires_in=expires_in, timeout=timeout)
        )

    def map(
        self,
        inputs: Iterable[WorkflowInput[OutputT]] | AsyncIterable[WorkflowInput[OutputT]],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Generator[MapResult[OutputT]]:
        """Like ``comfysnap_client.Client.map``; ``inputs`` is read in the background thread."""
        return self._portal.iterate(
            self._client.map(
                inputs, concurrency=concurrency, ordered=ordered, timeout=timeout, labels=labels
            )
        )

    def read(self, file: OutputFile) -> bytes:
        """Like ``OutputFile.read``: return the content, verified.

        Example: ``content = client.read(output.images[0])``
        """
        return self._portal.run(file.read())

    def image(self, file: ImageFile) -> "Image.Image":
        """Like ``ImageFile.image``: return a Pillow image; requires Pillow.

        Example: ``width = client.image(output.images[0]).width``
        """
        return self._portal.run(file.image())

    def save(self, file: OutputFile, path: str | Path) -> Path:
        """Like ``OutputFile.save``: atomic, resumed after a lost connection, verified.

        Example: ``path = client.save(output.images[0], "fox.png")``
        """
        return self._portal.run(file.save(path))

    def stream(self, file: OutputFile) -> Generator[bytes]:
        """Like ``OutputFile.stream``: yield the content in chunks.

        Example: ``size = sum(len(chunk) for chunk in client.stream(output.images[0]))``
        """
        return self._portal.iterate(file.stream())


class _Portal:
    """Runs coroutines in one event loop on behalf of any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="comfysnap", daemon=True
        )
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._loop.is_closed()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine; Ctrl-C cancels it and waits for its end.

        Raises:
            RuntimeError: The portal is closed, or the call comes from its own thread.
        """
        if self.closed or threading.current_thread() is self._thread:
            coroutine.close()
            reason = (
                "the client is closed" if self.closed else "the client cannot be used in a callback"
            )
            raise RuntimeError(reason)
        ended = threading.Event()

        async def supervised() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(supervised(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not ended.is_set():
                future.cancel()
                ended.wait(INTERRUPT_S)
            raise

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """Yield the items of an async generator as they are requested."""
        end = object()

        async def next_item() -> T | object:
            return await anext(source, end)

        try:
            while (item := self.run(next_item())) is not end:
                yield item  # pyright: ignore[reportReturnType] -- never the sentinel
        finally:
            if not self.closed:
                self.run(source.aclose())

    def close(self) -> None:
        """Cancel all tasks and stop the thread."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
