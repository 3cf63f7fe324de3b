"""``comfysnap generate``: typed Python modules of the workflows."""

from pathlib import Path
from typing import Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import PROJECT_FILE, open_project


def generate(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder to write to. Default: generate.out in comfysnap.toml."
        ),
    ] = None,
    project: ProjectOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list outdated files and exit 1.")
    ] = False,
) -> None:
    """Write a typed Python module for each workflow.

    Example: comfysnap generate --out my_app/workflows
    """
    from comfysnap_schema import codegen
    from comfysnap_schema.workflow import load_workflows

    settings = open_project(project)
    folder = out or settings.generate.out
    if folder is None:
        raise ProjectError(
            "no_out",
            f"missing output folder: pass --out, or set [generate] out in {PROJECT_FILE}",
        )
    folder = folder.resolve()
    workflows = load_workflows(settings.workflows)
    sources = codegen.generate(workflows, package=codegen.package_of(folder))
    if not check:
        written = codegen.write(folder, sources)
        written += codegen.write_contracts(workflows.values())
        for item in written:
            print(f"{'removed' if item.reason == 'stale' else 'wrote'} {item.path}")
        return
    found = codegen.find_outdated(folder, sources)
    found += codegen.find_outdated_contracts(workflows.values())
    for item in found:
        print(f"{item.reason}: {item.path}")
    if found:
        print("to update them, run: comfysnap generate")
        raise typer.Exit(1)
