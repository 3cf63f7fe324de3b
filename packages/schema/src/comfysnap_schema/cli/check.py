"""``comfysnap check``: whether every workflow would run with its defaults."""

from pathlib import Path
from typing import Annotated

import typer

from comfysnap_schema.workflow import open_project


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    project: Annotated[
        Path | None, typer.Option(help="A comfysnap.toml, or the folder that holds one.")
    ] = None,
) -> None:
    """Validate every workflow with its defaults, as strictly as ComfyUI; exit 1 on any finding.

    Names of model files are not judged: which ones there are depends on the server.
    """
    from comfysnap_schema.wire import SchemaError, WorkflowError
    from comfysnap_schema.workflow import SPEC_FILE, Workflow, add_workflow, check_workflow

    folder = open_project(project).workflows
    specs = sorted(folder.glob(f"*/{SPEC_FILE}"))
    if not specs:
        raise WorkflowError("no_workflows", f"no */{SPEC_FILE} below it", file=str(folder))
    bad = 0
    found: dict[str, Workflow] = {}
    for spec in specs:
        try:
            workflow = Workflow.load(spec.parent)
            add_workflow(found, workflow)
            result = check_workflow(workflow)
        except SchemaError as error:
            bad += 1
            print(f"{spec.parent.name}: {error}")
            continue
        for note in result.notes:
            print(f"{workflow.name}: note: {note}")
        for finding in result.findings:
            print(f"{workflow.name}: {finding}")
        bad += len(result.findings)
        if not result.findings:
            print(f"{workflow.name}: ok")
    if bad:
        print(f"{bad} {'finding' if bad == 1 else 'findings'}")
        raise typer.Exit(1)
