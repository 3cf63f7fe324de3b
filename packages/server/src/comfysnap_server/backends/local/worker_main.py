"""The worker: runs one job after the other on an engine, and dies with its server."""

import base64
import logging
import os
import queue
import selectors
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter

from comfysnap_schema.wire import JobStatus, Progress
from comfysnap_server.backends.local.channel import frame, receive
from comfysnap_server.backends.protocol import JobRequest
from comfysnap_server.engine.protocol import Engine, EngineJob, PreviewFrame
from comfysnap_server.jobs import Ending, Outcome, execute, failed

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S: Final = 0.05
"""At most one progress message and one preview in this time."""


class DoneMessage(BaseModel, frozen=True):
    """What the worker sends when a job ended."""

    op: Literal["done"] = "done"
    outcome: Outcome


class RunOrder(BaseModel, frozen=True):
    """What the server sends to have a job run."""

    op: Literal["run"] = "run"
    input_dir: Path
    output_dir: Path
    request: JobRequest


class InterruptOrder(BaseModel, frozen=True):
    """What the server sends to have the running job stop."""

    op: Literal["interrupt"]
    job_id: str


ORDER: Final[TypeAdapter[RunOrder | InterruptOrder]] = TypeAdapter(
    Annotated[RunOrder | InterruptOrder, Field(discriminator="op")]
)


class WorkerMain:
    """Talks to the server on the main thread and runs jobs on another one."""

    def __init__(self, engine: Engine, channel: socket.socket) -> None:
        self._engine = engine
        self._orders: queue.SimpleQueue[RunOrder] = queue.SimpleQueue()
        self._channel = channel
        self._reports = Reports(channel)

    def serve(self) -> None:
        """Attach the engine, then run what comes. Does not return: when the server is gone, the
        process ends at once, whatever runs."""
        started = time.perf_counter()
        try:
            self._engine.attach()
        except Exception as error:
            logger.exception("the engine could not be attached")
            self._reports.send({"op": "failed", "detail": f"{type(error).__name__}: {error}"})
            os._exit(1)
        threading.Thread(target=self._run_forever, name="jobs", daemon=True).start()
        device: str | None = getattr(self._engine, "device", None)
        attach = time.perf_counter() - started
        self._reports.send({"op": "ready", "attach": attach, "device": device})
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._reports.woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._reports.due_in())}
                self._reports.flush(woken=self._reports.woken in ready)
                if self._channel in ready:
                    self._take(receive(self._channel))

    def _take(self, message: bytes | None) -> None:
        if message is None:
            os._exit(0)
        try:
            order = ORDER.validate_json(message)
        except ValueError as error:
            self._report_outcome(_could_not_run(error))
            return
        if isinstance(order, RunOrder):
            self._reports.send({"op": "started"})
            self._orders.put(order)
        else:
            self._engine.interrupt(order.job_id)

    def _run_forever(self) -> None:
        while True:
            self._run(self._orders.get())

    def _run(self, order: RunOrder) -> None:
        try:
            outcome = self._execute(order)
        except Exception as error:
            outcome = _could_not_run(error)
        self._report_outcome(outcome)

    def _report_outcome(self, outcome: Outcome) -> None:
        try:
            message = DoneMessage(outcome=outcome).model_dump_json()
        except ValueError as error:  # an output that is not JSON
            message = DoneMessage(outcome=_could_not_run(error)).model_dump_json()
        self._reports.drop()
        self._reports.send(message.encode())

    def _execute(self, order: RunOrder) -> Outcome:
        request = order.request
        make_empty(order.output_dir)
        if not request.files:
            make_empty(order.input_dir)
        job = EngineJob(
            job_id=request.job_id,
            graph=request.graph,
            outputs=request.outputs,
            fields=request.fields,
            input_dir=order.input_dir,
            output_dir=order.output_dir,
            previews=request.previews,
            timeout=request.timeout,
        )
        outcome = execute(self._engine, job, self._reports.report)
        if outcome.status is JobStatus.SUCCEEDED:
            flush_files(order.output_dir)
        return outcome


class Reports:
    """Sends progress often enough to watch and seldom enough not to flood: the latest state at
    most every ``REPORT_INTERVAL_S``, the last one before a pause never held back."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[str, Progress | PreviewFrame] = {}
        self._sent_at = 0.0
        self.woken, self._waker = socket.socketpair()
        self.woken.setblocking(False)
        self._waker.setblocking(False)

    def report(self, news: Progress | PreviewFrame) -> None:
        """Take a state from the engine; returns at once."""
        with self._lock:
            first = not self._waiting
            self._waiting["preview" if isinstance(news, PreviewFrame) else "progress"] = news
            late = time.monotonic() - self._sent_at >= REPORT_INTERVAL_S
        if late:
            self.flush()
        elif first:
            self._wake()

    def due_in(self) -> float | None:
        """Seconds until something waits to be sent; None when nothing does."""
        with self._lock:
            if not self._waiting:
                return None
            return max(self._sent_at + REPORT_INTERVAL_S - time.monotonic(), 0.0)

    def flush(self, *, woken: bool = False) -> None:
        """Send what waits, when its time has come."""
        if woken:
            self.woken.recv(64)
        with self._lock:
            if not self._waiting or time.monotonic() - self._sent_at < REPORT_INTERVAL_S:
                return
            waiting, self._waiting = self._waiting, {}
            self._sent_at = time.monotonic()
        for news in waiting.values():
            self.send(_message(news))

    def drop(self) -> None:
        """The job ended; what waits is history."""
        with self._lock:
            self._waiting = {}

    def send(self, message: dict[str, Any] | bytes) -> None:
        """Send one message, whole. Ends the process when the server is gone."""
        with self._sending:
            try:
                self._channel.sendall(frame(message))
            except OSError:
                os._exit(0)

    def _wake(self) -> None:
        try:
            self._waker.send(b".")
        except BlockingIOError:
            return


def _message(news: Progress | PreviewFrame) -> dict[str, Any]:
    if isinstance(news, Progress):
        return {"op": "progress", "progress": news.model_dump(mode="json")}
    return {
        "op": "preview",
        "preview": {
            "content_type": news.content_type,
            "data": base64.b64encode(news.data).decode(),
            "node": news.node,
        },
    }


def _could_not_run(error: Exception) -> Outcome:
    logger.error("a job could not be run", exc_info=error)
    detail = f"the worker could not run the job ({type(error).__name__})"
    return failed(Ending.ENGINE_FAILED, detail, must_restart=True)


def make_empty(folder: Path) -> None:
    """Make a folder, or one without what an earlier job or attempt left in it."""
    try:
        folder.mkdir()
    except FileExistsError:
        with os.scandir(folder) as entries:
            used = any(entries)
        if used:
            shutil.rmtree(folder)
            folder.mkdir()


def flush_files(folder: Path) -> None:
    """Bring the files of a job's output folder to the disk, so that a finished job still has them
    after a power cut: with the folder, which is new; without any file there is nothing to bring."""
    files = [entry.path for entry in os.scandir(folder) if entry.is_file()]
    for entry in (*files, folder, folder.parent) if files else ():
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
