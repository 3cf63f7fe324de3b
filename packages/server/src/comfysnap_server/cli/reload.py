"""``comfysnap serve --reload``: a server that restarts when its project changes."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Final

from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import read_project

_COMFYSNAP: Final = (sys.executable, "-c", "from comfysnap_schema.cli.command import main; main()")
_LOOK_S: Final = 0.3
"""Between looks at the files; a change that is complete looks the same twice."""
_STOP_S: Final = 30.0

_Files = dict[Path, tuple[int, int]]


def serve_and_reload(project: Path, arguments: Sequence[str]) -> int:
    """Run ``comfysnap serve`` as a process, and again after each change, until a signal.

    Args:
        project: The ``comfysnap.toml``; it and the files of its workflows are watched.
        arguments: The command line after ``comfysnap``; ``--reload`` is left out.

    Returns:
        The exit code: 130 after Ctrl-C, 143 after SIGTERM, that of the server when it ended
        because standard input closed.
    """
    given = [word for word in arguments if word != "--reload"]
    stop = Event()
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    watched = _WatchedProject(project)
    with_input = "--until-stdin-closes" in given
    while True:
        server = _start(given)
        code = _run_until_change(server, watched, stop, ends_with_server=with_input)
        _end(server)
        if received:
            return 128 + received[0]
        if code is not None:
            return code
        print("comfysnap: the project changed; restarting", file=sys.stderr, flush=True)


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """The server, in a session of its own: a signal of the terminal comes to this process, which
    ends it by its standard input."""
    inherited = "--until-stdin-closes" in arguments
    options = () if inherited else ("--until-stdin-closes",)
    return subprocess.Popen(
        [*_COMFYSNAP, *arguments, *options],
        stdin=None if inherited else subprocess.PIPE,
        start_new_session=True,
    )


def _run_until_change(
    server: subprocess.Popen[bytes],
    watched: "_WatchedProject",
    stop: Event,
    *,
    ends_with_server: bool,
) -> int | None:
    """Wait for a change (None), a signal, or the end of a server that must not be waited for."""
    is_waiting = False
    while not stop.wait(_LOOK_S):
        if watched.changed():
            return None
        code = server.poll()
        if code is None or is_waiting:
            continue
        if ends_with_server and code == 0:
            return code
        is_waiting = True
        print("comfysnap: waiting for the project to change", file=sys.stderr, flush=True)
    return 0


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.stdin is not None:
        server.stdin.close()
    else:
        server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


class _WatchedProject:
    """The files of a project, as they were when last looked at."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._folder: Path | None = None
        self._before = self._settled = self._look()

    def changed(self) -> bool:
        """Whether there was a change that is complete: two looks in a row found the same."""
        now = self._look()
        is_settled = now == self._before
        self._before = now
        if not is_settled or now == self._settled:
            return False
        self._settled = now
        return True

    def _look(self) -> _Files:
        with suppress(SchemaError):  # the server says so; the folder is still the one of before
            self._folder = read_project(self._project).workflows
        paths = [self._project]
        if self._folder is not None:
            paths += [path for path in self._folder.rglob("*") if "__pycache__" not in path.parts]
        found: _Files = {}
        for path in paths:
            try:
                status = path.stat()
            except OSError:  # deleted meanwhile
                continue
            found[path] = (status.st_mtime_ns, status.st_size)
        return found
