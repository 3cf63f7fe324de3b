"""The worker: runs one job after the other on an engine, and dies with its server."""

import base64
import logging
import os
import selectors
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from comfysnap_schema.errors import ErrorCode
from comfysnap_schema.jobs import JobStatus, Progress
from comfysnap_server.backends.local.channel import frame, receive
from comfysnap_server.backends.protocol import JobRequest
from comfysnap_server.engine.execute import Outcome, execute, problem
from comfysnap_server.engine.protocol import Engine, EngineJob, PreviewFrame

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S: Final = 0.05
"""At most one progress message and one preview in this time."""

OUTCOME: Final = TypeAdapter(Outcome)


class Worker:
    """Talks to the server on the main thread and runs jobs on another one."""

    def __init__(self, engine: Engine, channel: socket.socket) -> None:
        self._engine = engine
        self._channel = channel
        self._reports = Reports(channel)

    def serve(self) -> None:
        """Attach the engine, then run what comes. Does not return: when the server is gone, the
        process ends at once, whatever runs."""
        started = time.perf_counter()
        self._engine.attach()
        self._reports.send({"op": "ready", "attach": time.perf_counter() - started})
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._reports.woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._reports.due_in())}
                self._reports.flush(woken=self._reports.woken in ready)
                if self._channel in ready:
                    self._take(receive(self._channel))

    def _take(self, message: dict[str, Any] | None) -> None:
        match message:
            case None:
                os._exit(0)
            case {"op": "run"}:
                self._reports.send({"op": "started"})
                threading.Thread(target=self._run, args=(message,), name="job").start()
            case {"op": "interrupt", "job_id": str(job_id)}:
                self._engine.interrupt(job_id)
            case _:
                logger.warning("a message that is not known: %s", message.get("op"))

    def _run(self, message: dict[str, Any]) -> None:
        try:
            told = OUTCOME.dump_json(self._execute(message))
        except Exception as error:
            logger.exception("a job could not be run")
            detail = f"the worker could not run the job ({type(error).__name__})"
            told = OUTCOME.dump_json(
                Outcome(
                    status=JobStatus.FAILED,
                    error=problem(ErrorCode.ENGINE_FAILED, detail),
                    unfit=True,
                )
            )
        self._reports.drop()
        self._reports.send(b'{"op":"done","outcome":' + told + b"}")

    def _execute(self, message: dict[str, Any]) -> Outcome:
        request = JobRequest.model_validate(message["request"])
        input_dir, output_dir = Path(message["input_dir"]), Path(message["output_dir"])
        if output_dir.exists():
            shutil.rmtree(output_dir)
        output_dir.mkdir(parents=True)
        input_dir.mkdir(parents=True, exist_ok=True)
        job = EngineJob(
            job_id=request.job_id,
            graph=request.graph,
            outputs=request.outputs,
            fields=request.fields,
            input_dir=input_dir,
            output_dir=output_dir,
            previews=request.previews,
            timeout=request.timeout,
        )
        outcome = execute(self._engine, job, self._reports.report)
        if outcome.status is JobStatus.SUCCEEDED:
            flush_files(output_dir)
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

    def report(self, told: Progress | PreviewFrame) -> None:
        """Take a state from the engine; returns at once."""
        with self._lock:
            first = not self._waiting
            self._waiting["preview" if isinstance(told, PreviewFrame) else "progress"] = told
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
        for told in waiting.values():
            self.send(_message(told))

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


def _message(told: Progress | PreviewFrame) -> dict[str, Any]:
    if isinstance(told, Progress):
        return {"op": "progress", "progress": told.model_dump(mode="json")}
    return {
        "op": "preview",
        "preview": {
            "content_type": told.content_type,
            "data": base64.b64encode(told.data).decode(),
            "node": told.node,
        },
    }


def flush_files(folder: Path) -> None:
    """Bring the files of a job's output folder to the disk, so that a finished job still has them
    after a power cut: with the folders that are new; without any file there is nothing to bring."""
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    for entry in (*files, folder, folder.parent, folder.parent.parent) if files else ():
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
