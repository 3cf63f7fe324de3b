"""``comfysnap generate``: write the typed modules, or say which drifted."""

from pathlib import Path
from typing import Annotated

import typer

from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import PROJECT_FILE, open_project


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate")(generate)


def generate(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: out under generate.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="A comfysnap.toml, or the folder that holds one.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 and name what drifted.")
    ] = False,
) -> None:
    """Write a typed Python module for each workflow."""
    from comfysnap_schema import codegen
    from comfysnap_schema.workflow import load_workflows

    settings = open_project(project)
    folder = out or settings.generate.out
    if folder is None:
        raise ProjectError(
            "no_out", f"say where to write: --out, or out under [generate] in {PROJECT_FILE}"
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
    found = codegen.find_drift(folder, sources)
    found += codegen.find_contract_drift(workflows.values())
    for item in found:
        print(f"{item.reason}: {item.path}")
    if found:
        print("run: comfysnap generate")
        raise typer.Exit(1)
