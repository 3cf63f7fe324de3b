"""Runs the fork server, and ends every process that came of it: those of one job on request, all of
them when the fork server or the server is gone.

A script of the standard library alone, ``guard.py LIFE CONTROL COMMAND...``: small, so that it does
not hang or fail for its own reasons. Orphans become its children (prctl(2),
PR_SET_CHILD_SUBREAPER), so that no session or double fork takes a process out of its reach.
"""

import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.002
_PATIENCE_S = 5.0
"""For killed processes to be gone; one that waits for a dead disk may never be."""

Table = dict[int, tuple[int, int]]
"""Parent and start of each process, the start in clock ticks since the boot."""


class Guard:
    """Watches one command.

    Args:
        life: Connected to the server.
        command: What to run.
    """

    def __init__(self, life: socket.socket, command: list[str]) -> None:
        self._life = life
        self._code: int | None = None
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._child = os.posix_spawnp(command[0], command, os.environ)

    def run(self) -> int:
        """The exit code of the command, negative for a signal; returns when no process is left."""
        orders = b""
        while self._code is None:
            readable, _, _ = select.select([self._life, self._woken], [], [])
            if self._woken in readable:
                os.read(self._woken, 4096)
                self._reap()
            if self._life in readable:
                news = self._life.recv(4096)
                if not news:
                    break
                *lines, orders = (orders + news).split(b"\n")
                for line in lines:
                    keeper, worker, since = map(int, line.split())
                    self._end(partial(self._of_job, keeper, worker, since))
                    with suppress(OSError):
                        self._life.sendall(b"done\n")
        self._end(lambda table: descendants(table, os.getpid()))
        return self._code or 0

    def _of_job(self, keeper: int, worker: int, since: int, table: Table) -> set[int]:
        """What a worker started since then, and what workers that are dead left: the orphans of a
        living one are its keeper's. The worker itself is left alone."""
        found = descendants(table, keeper)
        for pid, (parent, _) in table.items():
            if parent == os.getpid() and pid != self._child:
                found |= {pid, *descendants(table, pid)}
        return {pid for pid in found - {keeper, worker} if table[pid][1] >= since}

    def _end(self, choose: Callable[[Table], set[int]]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            found = choose(dict(processes()))
            if sys.platform != "linux" and self._code is None:
                found.add(self._child)
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if not found:
                return
            time.sleep(_POLL_S)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._child:
                    self._code = os.waitstatus_to_exitcode(ended[1])


def processes() -> Iterator[tuple[int, tuple[int, int]]]:
    """Every process that is not dead yet."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            yield int(entry.name), (int(fields[1]), int(fields[19]))


def descendants(table: Table, root: int) -> set[int]:
    """Every process below ``root``."""
    found: set[int] = set()
    layer = {root}
    while layer:
        layer = {pid for pid, (parent, _) in table.items() if parent in layer} - found
        found |= layer
    return found


def _ignore(_signal: int, _frame: object) -> None:
    """A handler, so that the wakeup descriptor is written to."""


def main() -> None:
    """Run until the command or the server is gone, then end as the command did."""
    life = socket.socket(fileno=int(sys.argv[1]))
    life.set_inheritable(False)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = Guard(life, [*sys.argv[3:], f"--server={os.getpid()}"])
    os.close(int(sys.argv[2]))
    code = guard.run()
    if code < 0:
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
