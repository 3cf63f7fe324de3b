"""``comfysnap generate``: typed Python and TypeScript modules of the workflows."""

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
    typescript: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TypeScript module to write. Default: generate.typescript in comfysnap.toml.",
        ),
    ] = None,
    project: ProjectOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list outdated files and exit 1.")
    ] = False,
) -> None:
    """Write a typed Python module for each workflow, a TypeScript module of all, or both.

    Example: comfysnap generate --out my_app/workflows
    """
    from comfysnap_schema import codegen
    from comfysnap_schema.workflow import load_workflows

    settings = open_project(project)
    folder = out or settings.generate.out
    module = typescript or settings.generate.typescript
    if folder is None and module is None:
        raise ProjectError(
            "no_out",
            "missing output folder: pass --out or --typescript, or set [generate] out in "
            f"{PROJECT_FILE} (`comfysnap init` makes one)",
        )
    workflows = load_workflows(settings.workflows)
    found: list[codegen.Outdated] = []
    if folder is not None:
        folder = folder.resolve()
        sources = codegen.generate(workflows, package=codegen.package_of(folder))
        found += (codegen.find_outdated if check else codegen.write)(folder, sources)
    if module is not None:
        module = module.resolve()
        source = codegen.generate_typescript(workflows)
        update = codegen.find_outdated_typescript if check else codegen.write_typescript
        found += update(module, source)
    update = codegen.find_outdated_contracts if check else codegen.write_contracts
    found += update(workflows.values())
    for item in found:
        done = "removed" if item.reason == "stale" else "wrote"
        print(f"{item.reason}: {item.path}" if check else f"{done} {item.path}")
    if found and check:
        print("to update them, run: comfysnap generate")
        raise typer.Exit(1)
