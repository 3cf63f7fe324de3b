"""The worker: runs one job after the other on an engine, and dies with its server."""

import logging
import os
import queue
import selectors
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from comfysnap_schema.wire import Progress
from comfysnap_server.backends.local.channel import (
    ORDER,
    DoneMessage,
    FailedMessage,
    OutputMessage,
    PreviewMessage,
    ProgressMessage,
    ReadyMessage,
    RunOrder,
    StartedMessage,
    frame,
    receive,
)
from comfysnap_server.engine.protocol import Engine, EngineStartError, PreviewFrame
from comfysnap_server.jobs import EarlyOutput, Ending, FileStore, JobRequest, JobRun, Outcome, ended

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S: Final = 0.05
"""At most one progress message and one preview in this time."""


class WorkerMain:
    """Talks to the server on the main thread and runs jobs on another one.

    Args:
        engine: Loaded, not attached.
        channel: Connected to the server.
        gpu: Index of the only GPU that the engine is to see; None: all.
    """

    def __init__(self, engine: Engine, channel: socket.socket, gpu: int | None = None) -> None:
        self._engine = engine
        self._gpu = gpu
        self._orders: queue.SimpleQueue[tuple[RunOrder, JobRun]] = queue.SimpleQueue()
        self._latest: JobRun | None = None
        self._channel = channel
        self._reports = Reports(channel)

    def serve(self) -> None:
        """Attach the engine, then run what comes. Does not return: when the server is gone, the
        process ends at once, whatever runs."""
        started = time.perf_counter()
        try:
            if self._gpu is not None:
                show_one_gpu(self._gpu)
            self._engine.attach()
        except Exception as error:
            logger.exception("the engine could not be attached")
            self._reports.send(FailedMessage(detail=f"{type(error).__name__}: {error}"))
            os._exit(1)
        threading.Thread(target=self._run_forever, name="jobs", daemon=True).start()
        attach = time.perf_counter() - started
        self._reports.send(ReadyMessage(attach=attach, device=self._device()))
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._reports.woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._reports.due_in())}
                self._reports.flush(woken=self._reports.woken in ready)
                if self._channel in ready:
                    self._take(receive(self._channel))

    def _device(self) -> str | None:
        device: str | None = getattr(self._engine, "device", None)
        return device if self._gpu is None else f"{device or self._engine.name} (GPU {self._gpu})"

    def _take(self, message: bytes | None) -> None:
        if message is None:
            os._exit(0)
        try:
            order = ORDER.validate_json(message)
            if isinstance(order, RunOrder):
                self._start(order)
                return
        except ValueError as error:
            self._report_outcome(_could_not_run(error))
            return
        if self._latest is not None and self._latest.request.job_id == order.job_id:
            self._latest.interrupt()

    def _start(self, order: RunOrder) -> None:
        request = JobRequest.model_validate_json(order.request).with_models(order.models)
        self._reports.send(StartedMessage())
        self._latest = JobRun(
            self._engine,
            request,
            input_dir=order.input_dir,
            output_dir=order.output_dir,
            files=FileStore(order.files),
            report=self._reports.report,
        )
        self._orders.put((order, self._latest))

    def _run_forever(self) -> None:
        while True:
            try:
                outcome = _execute(*self._orders.get())
            except Exception as error:
                outcome = _could_not_run(error)
            self._report_outcome(outcome)

    def _report_outcome(self, outcome: Outcome) -> None:
        self._reports.drop()
        try:
            self._reports.send(DoneMessage(outcome=outcome))
        except ValueError as error:  # such as a message with half of a surrogate pair
            self._reports.send(DoneMessage(outcome=_could_not_run(error)))


def _execute(order: RunOrder, run: JobRun) -> Outcome:
    make_empty(order.output_dir)
    make_empty(order.input_dir)
    outcome = run.execute()
    if outcome.outputs:
        flush_files(order.output_dir)
    return outcome


class Reports:
    """Sends progress often enough to watch and seldom enough not to flood: the latest state at
    most every ``REPORT_INTERVAL_S``, the last one before a pause never held back; outputs at
    once."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[str, Progress | PreviewFrame] = {}
        self._sent_at = 0.0
        self.woken, self._waker = socket.socketpair()
        self.woken.setblocking(False)
        self._waker.setblocking(False)

    def report(self, news: Progress | PreviewFrame | EarlyOutput) -> None:
        """Take a state from the engine; returns at once."""
        if isinstance(news, EarlyOutput):
            self.send(OutputMessage(name=news.name, value=news.output.on_wire()))
            return
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
            self.send(
                ProgressMessage(progress=news)
                if isinstance(news, Progress)
                else PreviewMessage(preview=news.on_wire())
            )

    def drop(self) -> None:
        """The job ended; what waits is history."""
        with self._lock:
            self._waiting = {}

    def send(self, message: BaseModel) -> None:
        """Send one message, whole. Ends the process when the server is gone."""
        data = frame(message)
        with self._sending:
            try:
                self._channel.sendall(data)
            except OSError:
                os._exit(0)

    def _wake(self) -> None:
        try:
            self._waker.send(b".")
        except BlockingIOError:
            return


def show_one_gpu(index: int) -> None:
    """Hide all other GPUs from this process, which has not used any yet.

    Args:
        index: Among those that ``CUDA_VISIBLE_DEVICES`` names, or among all where it is not set.

    Raises:
        EngineStartError: It does not name so many.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = str(index)
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        if index >= len(names):
            raise EngineStartError(f"no GPU {index}: CUDA_VISIBLE_DEVICES is {visible!r}")
        chosen = names[index]
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen


def _could_not_run(error: Exception) -> Outcome:
    logger.error("a job could not be run", exc_info=error)
    detail = f"the worker could not run the job ({type(error).__name__})"
    return ended(Ending.ENGINE_FAILED, detail, must_restart=True)


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
