"""The warm parent: loads the engine once, and forks a worker from it whenever one is needed.

A separate process with one thread, no event loop, no database and no device. When loading left
threads behind, it says so and becomes a worker itself instead: forking such a process can hang.
"""

import argparse
import ctypes
import gc
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from pydantic import BaseModel

from comfysnap_server.backends.local.channel import (
    ExitedMessage,
    FailedMessage,
    ForkedMessage,
    ForkOrder,
    LoadedMessage,
    frame,
)
from comfysnap_server.backends.local.worker_main import WorkerMain
from comfysnap_server.engine.protocol import Engine
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.errors import ComfysnapServerError
from comfysnap_server.logs import FORMAT_VARIABLE, formatter

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_MADV_COLLAPSE: Final = 25
_HUGE_PAGE: Final = 2 << 20
_LARGE_HEAP: Final = 128 << 20
_ORDER_BYTES: Final = 256
_PID: Final = struct.Struct("!q")


def main(arguments: list[str] | None = None) -> None:
    """Run until the server is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--options", default="{}")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--server", type=int, required=True)
    parser.add_argument("--lock", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.server)
    sys.argv = sys.argv[:1]
    os.dup2(2, 1)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(os.environ.get(FORMAT_VARIABLE), times=False))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    os.set_inheritable(options.lock, False)
    control = socket.socket(fileno=options.control)
    control.set_inheritable(False)
    try:
        started = time.perf_counter()
        engine = make_engine(options.engine, json.loads(options.options))
        engine.load()
        seconds = time.perf_counter() - started
    except Exception as error:
        if not isinstance(error, ComfysnapServerError):  # else the message says it all
            traceback.print_exc()
        _send(control, FailedMessage(detail=f"{type(error).__name__}: {error}"))
        sys.exit(1)
    holding = thread_holders(engine)
    if not holding:
        settle()
    _send(control, LoadedMessage(pid=os.getpid(), seconds=seconds, threads=holding))
    ForkServer(engine, control, forks=not holding).serve()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG);
    elsewhere than on Linux the closed channel has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def settle() -> None:
    """Prepare the heap for forks: no collection writes to it, and a fork copies few page tables."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        collapse_heap()


def collapse_heap() -> int:
    """Move the heap to huge pages, if it is large and the kernel can (Linux 6.1); returns the bytes
    that the kernel took on. A loaded ComfyUI then forks in a third of the time."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [found for line in lines if (found := _huge_range(line))]
    if sum(end - start for start, end in ranges) < _LARGE_HEAP:
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    done = [end - start for start, end in ranges if not madvise(start, end - start, _MADV_COLLAPSE)]
    return sum(done)


def _huge_range(line: str) -> tuple[int, int] | None:
    """The whole huge pages of a line of ``/proc/self/maps``; None if it is not private memory."""
    place, access, *_, inode = line.split()[:5]
    if access != "rw-p" or inode != "0" or "[stack" in line:
        return None
    first, last = (int(number, 16) for number in place.split("-"))
    start, end = -(-first // _HUGE_PAGE) * _HUGE_PAGE, last // _HUGE_PAGE * _HUGE_PAGE
    return (start, end) if end > start else None


def thread_holders(engine: Engine) -> list[str]:
    """Who left threads behind: node packs where the engine knows them, else names of threads.
    Empty when the process is safe to fork."""
    packs: list[str] = getattr(engine, "unsafe_to_fork", [])
    if packs:
        return [*packs]
    tasks = Path("/proc/self/task")
    count = len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
    if count <= 1:
        return []
    named = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    return named or ["a thread of a native library"]


class ForkServer:
    """Forks workers on demand and reaps them.

    Between it and each worker stands a keeper, a process that only waits: orphans of what the
    worker starts become its children, so that it is known whose they are when there are several.
    """

    def __init__(self, engine: Engine, control: socket.socket, *, forks: bool) -> None:
        self._engine = engine
        self._control = control
        self._forks = forks
        self._workers: dict[int, int] = {}
        """Worker by keeper."""

    def serve(self) -> None:
        """Wait for orders; the process ends when the server closes the control socket."""
        reaped, waker = socket.socketpair()
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        import selectors

        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(reaped, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if reaped in ready:
                    reaped.recv(64)
                    self._reap()
                if self._control in ready:
                    self._order()

    def _order(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._control, _ORDER_BYTES, 1)
        except OSError:
            os._exit(0)
        if not data:
            os._exit(0)
        channel = socket.socket(fileno=descriptors[0])
        channel.set_inheritable(False)
        gpu = ForkOrder.model_validate_json(data).gpu
        if not self._forks:
            _work(self._engine, channel, gpu)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        keeper = os.fork()
        if keeper == 0:
            os.close(reading)
            self._keep(parent, channel, gpu, writing)
        channel.close()
        os.close(writing)
        answer = os.read(reading, _PID.size)
        os.close(reading)
        if len(answer) == _PID.size:  # else the keeper died, and is reaped next
            self._workers[keeper] = _PID.unpack(answer)[0]
        worker = self._workers.setdefault(keeper, keeper)
        _send(self._control, ForkedMessage(pid=worker, keeper=keeper))

    def _keep(self, parent: int, channel: socket.socket, gpu: int | None, answer: int) -> NoReturn:
        """Fork a worker, wait for its end, and end in the same way."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        self._control.close()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        keeper = os.getpid()
        worker = os.fork()
        if worker == 0:
            os.close(answer)
            die_with_parent(keeper)
            _work(self._engine, channel, gpu)
        channel.close()
        os.write(answer, _PID.pack(worker))
        os.close(answer)
        while True:
            ended, status = os.wait()
            if ended == worker:
                _end_as(os.waitstatus_to_exitcode(status))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            worker = self._workers.pop(pid, None)
            if worker is not None:
                _send(self._control, ExitedMessage(pid=worker, code=code))


def _end_as(code: int) -> NoReturn:
    """End this process with an exit code, or by the signal that a negative one names."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left its own
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def _work(engine: Engine, channel: socket.socket, gpu: int | None) -> NoReturn:
    """Be a worker, in a process group of its own, so that what a node starts can be ended with
    it."""
    try:
        os.setpgid(0, 0)
    except PermissionError:
        logger.debug("already the leader of a session")
    try:
        WorkerMain(engine, channel, gpu).serve()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _ignore(_signal: int, _frame: object) -> None:
    """A handler, so that the wakeup descriptor is written to."""


def _send(control: socket.socket, message: BaseModel) -> None:
    try:
        control.sendall(frame(message))
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main()
