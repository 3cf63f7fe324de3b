"""What the commands show: a progress bar, and a job or problem in a few lines."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from comfysnap_schema.wire import Problem, jobs


class ProgressBar:
    """A progress bar on stderr; shows nothing if that is not a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
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
        self._task: TaskID = self._bar.add_task("submitting", total=1.0)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def status(self, text: str) -> None:
        """Show what is being done besides running the job."""
        self._bar.update(self._task, description=text)

    def progress(self, progress: jobs.Progress, status: str) -> None:
        """Show the progress of the job."""
        self._bar.update(
            self._task, completed=share_done(progress), description=describe(progress, status)
        )


def share_done(progress: jobs.Progress) -> float:
    """How far the job is, or the phase before it."""
    if progress.bytes_done is not None and progress.bytes_total:
        return progress.bytes_done / progress.bytes_total
    return progress.fraction


def describe(progress: jobs.Progress, status: str) -> str:
    """Describe the progress: the current node and step, or the position in the queue."""
    if progress.phase is not None:
        return _phase(progress)
    if status == jobs.JobStatus.QUEUED and progress.queue_position:
        return f"queued, {progress.queue_position} ahead"
    node = progress.node_title or progress.node_class
    if status != jobs.JobStatus.RUNNING or not node:
        return status
    return f"{node} {progress.step}/{progress.steps}" if progress.steps else node


def _phase(progress: jobs.Progress) -> str:
    """What is done before the graph runs, with its bytes."""
    text = str(progress.phase).replace("_", " ")
    if progress.bytes_done is None:
        return text
    done = f"{text}, {progress.bytes_done / 1e6:.1f}"
    total = progress.bytes_total
    return f"{done} MB" if total is None else f"{done} of {total / 1e6:.1f} MB"


def job_lines(record: jobs.JobRecord) -> list[str]:
    """Describe a job in a few lines."""
    lines = [f"{record.id}  {record.workflow}  {_status(record)}"]
    if not record.is_final and record.progress.phase is not None:
        lines.append(f"  {_phase(record.progress)}")
    elif not record.is_final and record.progress.fraction:
        lines.append(f"  {record.progress.fraction:.0%}  {describe(record.progress, 'running')}")
    if record.timings.run is not None:
        lines.append(f"  ran {record.timings.run:.1f} s")
    if record.error is not None:
        lines += [f"  {line}" for line in problem_lines(record.error)]
    return lines


def problem_lines(problem: Problem) -> list[str]:
    """Describe a problem: one line, then one for each field."""
    lines = [f"{problem.code}: {problem.detail or problem.title}"]
    fields = [f"{one.field or one.node or '-'}: {one.message}" for one in problem.fields]
    return lines + [f"  {line}" for line in fields if line not in lines[0]]


def _status(record: jobs.JobRecord) -> str:
    stopping = record.cancel_requested_at is not None and not record.is_final
    return f"{record.status}, cancelling" if stopping else str(record.status)
