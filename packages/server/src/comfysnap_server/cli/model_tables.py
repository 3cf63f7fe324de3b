"""Prints the events of a sync, and a table of models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from comfysnap_server.deploy import Deployment
from comfysnap_server.models import (
    Downloaded,
    DownloadProgress,
    Failed,
    ModelStorage,
    SyncEvent,
    SyncPlan,
    model_references,
    unused_files,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def size_text(size: int | None) -> str:
    """A size in bytes for people; ``?`` if unknown."""
    if size is None:
        return "?"
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def show_events(events: Iterable[SyncEvent]) -> bool:
    """Print events and progress bars; returns whether nothing failed."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(highlight=False, markup=False)
    complete = True
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(),
        TransferSpeedColumn(), TimeRemainingColumn(), console=console,
    ) as bars:  # fmt: skip
        shown: dict[str, TaskID] = {}
        for event in events:
            if isinstance(event, SyncPlan):
                _show_plan(event, bars)
                complete = complete and not event.failed
            elif isinstance(event, DownloadProgress):
                if event.path not in shown:
                    shown[event.path] = bars.add_task(event.path, total=event.total)
                bars.update(shown[event.path], completed=event.done)
            elif isinstance(event, Downloaded):
                if event.path in shown:
                    bars.remove_task(shown.pop(event.path))
                bars.console.print(f"downloaded {event.path}  sha256 {event.sha256[:16]}")
            else:
                complete = False
                if event.path in shown:
                    bars.remove_task(shown.pop(event.path))
                bars.console.print(_failure(event), style="red")
    return complete


def _failure(event: Failed) -> str:
    return f"FAILED     {event.path or 'sync'}: {event.code}: {event.reason}"


def _show_plan(plan: SyncPlan, bars: "Progress") -> None:
    print_line = bars.console.print
    for path in plan.present:
        print_line(f"present    {path}")
    for file in plan.pending:
        reason = plan.reasons[str(file.path)]
        print_line(
            f"pending    {file.path}  {size_text(file.size)}  from {file.source}  ({reason})"
        )
    for entry, reason in plan.failed.items():
        print_line(f"FAILED     {entry}: {reason}", style="red")
    unknown = f", and {plan.unknown_sizes} of unknown size" if plan.unknown_sizes else ""
    free = f"; {size_text(plan.free)} free" if plan.free is not None else ""
    count = len(plan.pending)
    files = f"{count} file{'' if count == 1 else 's'}"
    print_line(f"{files} to download, {size_text(plan.need)}{unknown}{free}")


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A row of ``comfysnap models list``."""

    path: PurePosixPath
    size: int | None
    """Bytes; None: missing."""
    listed: bool
    source: str
    used_by: tuple[str, ...]
    is_unused: bool
    """No workflow uses it, and it is not in ``deploy.models``."""

    @property
    def state(self) -> str:
        """``missing``, ``present`` or ``unused``."""
        if self.size is None:
            return "missing"
        return "unused" if self.is_unused else "present"

    def as_json(self) -> dict[str, Any]:
        """One element of ``comfysnap models list --json``."""
        return {
            "path": str(self.path),
            "state": self.state,
            "size": self.size,
            "listed": self.listed,
            "source": self.source,
            "used_by": list(self.used_by),
        }


def model_rows(deployment: Deployment, storage: ModelStorage) -> list[ModelRow]:
    """The files in ``deploy.models`` and all other files, sorted by path."""
    workflows = list(deployment.workflows.values())
    existing, records = storage.files(), storage.records()
    listed = {entry.path: str(entry) for entry in deployment.settings.models if entry.path}
    wholes = [entry for entry in deployment.settings.models if entry.whole_repository]
    unused = set(unused_files(existing, workflows, deployment.preloaded))
    references = [ref for workflow in workflows for ref in model_references(workflow)]
    rows: list[ModelRow] = []
    for path in sorted({*listed, *existing}):
        source = listed.get(path) or (records[str(path)]["source"] if str(path) in records else "")
        in_list = path in listed or any(source.startswith(f"{e.repo}@") for e in wholes)
        users = dict.fromkeys(ref.workflow for ref in references if ref.is_at(path))
        rows.append(
            ModelRow(
                path=path,
                size=existing.get(path),
                listed=in_list,
                source=source,
                used_by=tuple(users),
                is_unused=path in unused and not in_list,
            )
        )
    return rows


def show_rows(rows: Iterable[ModelRow]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "size", "state", "source", "used by")
    total = 0
    for row in rows:
        total += row.size or 0
        source = row.source or "not in deploy.models"
        users = ", ".join(row.used_by)
        table.add_row(str(row.path), size_text(row.size), row.state, source, users)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{size_text(total)} in total")
