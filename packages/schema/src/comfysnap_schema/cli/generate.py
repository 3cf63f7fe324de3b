"""``comfysnap generate``: typed Python and TypeScript modules of the workflows."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import ProjectError, WorkflowDetail
from comfysnap_schema.workflow import PROJECT_FILE, open_project

if TYPE_CHECKING:
    from comfysnap_schema.workflow import Workflow

CONTRACTS_GROUP = "comfysnap.contracts"
"""The entry point that asks a server: ``(url: str) -> list[WorkflowDetail]``. It exits the command
with an error of its own."""


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
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server, instead of workflow folders. Keys are read from"
            " COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET. Default: generate.url in comfysnap.toml."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list outdated files and exit 1.")
    ] = False,
) -> None:
    """Write a typed Python module for each workflow, a TypeScript module of all, or both.

    Example: comfysnap generate --out my_app/workflows
    """
    from comfysnap_schema import codegen

    settings = open_project(project)
    folder = out or settings.generate.out
    module = typescript or settings.generate.typescript
    if folder is None and module is None:
        raise ProjectError(
            "no_out",
            "missing output folder: pass --out or --typescript, or set [generate] out in "
            f"{PROJECT_FILE} (`comfysnap init` creates one)",
        )
    server = url or settings.generate.url
    workflows = _of_server(server) if server else _of_folders(settings.workflows)
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
    if not server:
        update = codegen.find_outdated_contracts if check else codegen.write_contracts
        found += update(workflows.values())
    for item in found:
        done = "removed" if item.reason == "stale" else "wrote"
        print(f"{item.reason}: {item.path}" if check else f"{done} {item.path}")
    if found and check:
        print(f"to update them, run: comfysnap generate{f' --url {url}' if url else ''}")
        raise typer.Exit(1)


def _of_folders(folder: Path) -> "dict[str, Workflow]":
    from comfysnap_schema.workflow import load_workflows

    return load_workflows(folder)


def _of_server(url: str) -> "dict[str, Workflow]":
    from comfysnap_schema.workflow import workflow_from_contract

    plugins = entry_points(group=CONTRACTS_GROUP)
    if not plugins:
        message = "--url needs the client: pip install 'comfysnap-client[cli]'"
        raise ProjectError("no_client", message)
    fetch = cast("Callable[[str], list[WorkflowDetail]]", next(iter(plugins)).load())
    return {detail.name: workflow_from_contract(detail) for detail in fetch(url)}
