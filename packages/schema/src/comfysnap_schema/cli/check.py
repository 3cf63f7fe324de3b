"""``comfysnap check`` and ``diff``: are the workflows valid, and do their callers break?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import SchemaError, WorkflowError
from comfysnap_schema.workflow import open_project

if TYPE_CHECKING:
    from comfysnap_schema.workflow import Contract


def check(project: ProjectOption = None) -> None:
    """Validate every workflow with its defaults, as strictly as ComfyUI. Exit 1 on any issue.

    Names of model files are not checked: they depend on the server.

    Example: comfysnap check --project my_project
    """
    from comfysnap_schema.workflow import Workflow, add_workflow, check_workflow, find_workflows

    count = 0
    found: dict[str, Workflow] = {}
    for folder in find_workflows(open_project(project).workflows):
        try:
            workflow = Workflow.load(folder)
            add_workflow(found, workflow)
            result = check_workflow(workflow)
        except SchemaError as error:
            count += 1
            print(f"{folder.name}: {error}")
            continue
        for note in result.notes:
            print(f"{workflow.name}: note: {note}")
        for issue in result.issues:
            print(f"{workflow.name}: {issue}")
        count += len(result.issues)
        if not result.issues:
            print(f"{workflow.name}: ok")
    if count:
        print(f"{count} {'issue' if count == 1 else 'issues'}")
        raise typer.Exit(1)


def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="A workflow folder or a contracts.json.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later version of OLD.")],
) -> None:
    """Show what changed between two contracts. Exit 1 when callers of OLD break, else 0.

    Example: comfysnap diff released/contracts.json workflows/flux
    """
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
    from comfysnap_schema.workflow import Workflow, read_history

    if path.is_dir():
        return Workflow.load(path).contract
    history = read_history(path)
    if history is None:
        raise WorkflowError("unreadable", "no such folder or contracts.json", file=str(path))
    return history.contract
