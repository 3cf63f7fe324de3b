"""``comfysnap diff``: whether a workflow's callers break."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from comfysnap_schema.workflow import Contract


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff)


def diff(
    old: Annotated[Path, typer.Argument(help="A workflow folder, or a contracts.json.")],
    new: Annotated[Path, typer.Argument(help="The same, later.")],
) -> None:
    """Say what changed between two contracts. Exit 1 when callers of OLD break, else 0."""
    from comfysnap_schema.workflow import compare

    before, after = _contract(old), _contract(new)
    changes = compare(before, after)
    for change in changes:
        print(f"{'BREAKS' if change.breaking else 'ok':<7}{change.field}: {change.message}")
    if before.hash == after.hash:
        print(f"no change: both are {after.hash}")
    elif any(change.breaking for change in changes):
        print(f"{before.hash} -> {after.hash}: callers break")
        raise typer.Exit(1)
    else:
        print(f"{before.hash} -> {after.hash}: callers do not break")


def _contract(path: Path) -> "Contract":
    from comfysnap_schema.wire import WorkflowError
    from comfysnap_schema.workflow import Workflow, read_history

    if path.is_dir():
        return Workflow.load(path).contract
    history = read_history(path)
    if history is None:
        raise WorkflowError("unreadable", "no such folder or contracts.json", file=str(path))
    return history.contract
