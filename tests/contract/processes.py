"""Runs commands as processes, and finds processes they left behind."""

import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.paths import ROOT

MARK = "COMFYSNAP_TEST_MARK"
COMMAND = (sys.executable, "-c", "from comfysnap_schema.cli import main; main()")


def environment(mark: str) -> dict[str, str]:
    """Environment with a mark that every descendant inherits."""
    hidden = ("COMFYUI_PATH", "COMFYSNAP_URL", "COMFYSNAP_API_KEY")
    return {k: v for k, v in os.environ.items() if k not in hidden} | {MARK: mark}


def new_mark() -> str:
    return uuid.uuid4().hex


def left_behind(mark: str, patience: float = 60) -> list[str]:
    """Command lines of the processes with this mark that do not exit."""
    limit = time.monotonic() + patience
    while (found := _marked(mark)) and (left := limit - time.monotonic()) > 0:
        _wait_for_exit(next(iter(found)), left)
    return list(found.values())


def _wait_for_exit(pid: int, seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)


def _marked(mark: str) -> dict[int, str]:
    """Process ID to command line."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return {pid: line for pid, line in found.items() if line}


@contextmanager
def serving(
    mark: str, data: Path, *options: str, command: Sequence[str] = COMMAND
) -> Generator[tuple[subprocess.Popen[str], str]]:
    """``comfysnap serve`` as a process, and its URL."""
    process = subprocess.Popen(
        [*command, "serve", "--port=0", f"--data={data}", "--engine=simulated", *options],
        env=environment(mark), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        found = re.search(r"http://\S+$", process.stdout.readline().rstrip("\n"))
        assert found, "the server did not print its URL"
        yield process, found[0]
    finally:
        process.stdin.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
