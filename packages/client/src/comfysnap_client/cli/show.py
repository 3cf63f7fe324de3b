"""What the commands show: a live bar, preview frames, a job in a few lines."""

import base64
import io
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments

from comfysnap_schema.wire import Problem, jobs

PREVIEW_EVERY_S = 2.0
"""Least time between two preview frames in the terminal."""
_KITTY_CHUNK = 4096

Protocol = Literal["kitty", "iterm2"]


def preview_protocol(environ: Mapping[str, str], stream: TextIO) -> Protocol | None:
    """How this terminal shows pictures, or None when it cannot."""
    if not stream.isatty() or environ.get("TMUX"):
        return None
    program = environ.get("TERM_PROGRAM", "")
    if program in ("iTerm.app", "WezTerm"):
        return "iterm2"
    if environ.get("TERM") == "xterm-kitty" or program == "ghostty":
        return "kitty"
    return None


def preview_text(preview: jobs.Preview, protocol: Protocol) -> str:
    """The control sequence that shows a frame; empty when the terminal cannot decode it."""
    if protocol == "iterm2":
        size = len(base64.b64decode(preview.data))
        return f"\x1b]1337;File=inline=1;height=12;size={size}:{preview.data}\x07\n"
    data = preview.data
    if preview.content_type != "image/png":
        data = _as_png(data)
    parts = [data[at : at + _KITTY_CHUNK] for at in range(0, len(data), _KITTY_CHUNK)]
    told = [
        f"\x1b_G{'a=T,f=100,r=12,q=2,' if place == 0 else ''}"
        f"m={0 if place == len(parts) - 1 else 1};{part}\x1b\\"
        for place, part in enumerate(parts)
    ]
    return "".join(told) + "\n" if told else ""


def _as_png(data: str) -> str:
    """kitty takes PNG only; without Pillow the frame is left out."""
    try:
        from PIL import Image
    except ImportError:
        return ""
    made = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(data))).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


class LiveJob:
    """A bar on stderr that follows a job's events; without a terminal it shows nothing."""

    def __init__(self, *, previews: bool | None) -> None:
        console = Console(stderr=True)
        self._protocol: Protocol | None = preview_protocol(os.environ, sys.stderr)
        if previews and self._protocol is None:
            console.print("this terminal shows no previews (kitty and iTerm2 do)", style="dim")
        self.previews: bool = self._protocol is not None and previews is not False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("sending", total=1.0)
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def job(self, record: jobs.JobRecord) -> None:
        """Show where a job is."""
        self.progress(record.progress, str(record.status))

    def event(self, event: jobs.JobEvent) -> None:
        """Show what an event tells."""
        if event.job is not None:
            self.job(event.job)
        if event.progress is not None:
            self.progress(event.progress, "running")
        if event.preview is not None and self.previews and self._protocol is not None:
            now = time.monotonic()
            if now - self._shown_at >= PREVIEW_EVERY_S:
                self._shown_at = now
                text = preview_text(event.preview, self._protocol)
                # rich escapes what is written around its bar, but passes control segments on
                self._bar.console.print(Segments([Segment(text, control=[])]), end="")

    def saying(self, text: str) -> None:
        """Show what is done beside the job."""
        self._bar.update(self._task, description=text)

    def progress(self, progress: jobs.Progress, status: str) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=progress.fraction, description=describe(progress, status)
        )


def describe(progress: jobs.Progress, status: str) -> str:
    """A few words: the node at work and its step, or the place in the queue."""
    if status == jobs.JobStatus.QUEUED and progress.queue_position:
        return f"queued, {progress.queue_position} ahead"
    node = progress.node_title or progress.node_class
    if status != jobs.JobStatus.RUNNING or not node:
        return status
    return f"{node} {progress.step}/{progress.steps}" if progress.steps else node


def job_lines(record: jobs.JobRecord) -> list[str]:
    """A job in a few lines."""
    lines = [f"{record.id}  {record.workflow}  {_status(record)}"]
    if not record.is_final and record.progress.fraction:
        lines.append(f"  {record.progress.fraction:.0%}  {describe(record.progress, 'running')}")
    if record.timings.run is not None:
        lines.append(f"  ran {record.timings.run:.1f} s")
    if record.error is not None:
        lines += [f"  {line}" for line in problem_lines(record.error)]
    return lines


def problem_lines(problem: Problem) -> list[str]:
    """A problem in a few lines: each field at fault has its own."""
    lines = [f"{problem.code}: {problem.detail or problem.title}"]
    found = [f"{one.field or one.node or '-'}: {one.message}" for one in problem.fields]
    return lines + [f"  {line}" for line in found if line not in lines[0]]


def _status(record: jobs.JobRecord) -> str:
    stopping = record.cancel_requested_at is not None and not record.is_final
    return f"{record.status}, cancelling" if stopping else str(record.status)
