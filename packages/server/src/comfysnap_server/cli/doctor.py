"""``comfysnap doctor``: checks a project before it costs GPU time."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.doctor import ProjectIssue
    from comfysnap_server.nodepacks import Probe


def doctor(
    project: ProjectOption = None,
    comfyui: Annotated[
        Path | None,
        typer.Option(
            "--comfyui",
            envvar="COMFYUI_PATH",
            help="ComfyUI checkout with the pinned packs, which are loaded and checked.",
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            envvar="COMFYUI_PYTHON",
            help="Interpreter with ComfyUI's packages. Default: this one.",
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option("--online", help="Check secrets, volumes and models on Modal too."),
    ] = False,
    environment: EnvironmentOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check settings, workflows, node packs and models without a GPU.

    Prints the lines to paste for what it finds, where it can. Exits with 1 if there are errors.

    Example: comfysnap doctor --online --strict
    """
    from comfysnap_server.doctor import Level, check_modal, examine

    probe, unloaded = _probe(comfyui, python)
    issues, deployment = examine(project, probe=probe)
    issues += unloaded
    if online and deployment is not None:
        with modal_session(quiet=True, environment=environment):
            issues += check_modal(deployment)
    if as_json:
        print(json.dumps([issue.as_json() for issue in issues], indent=1))
    else:
        show(issues)
        if deployment is not None:
            _show_pools(deployment)
            _show_fixes(issues, deployment)
    failing = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    raise typer.Exit(1 if any(issue.level in failing for issue in issues) else 0)


def _probe(comfyui: Path | None, python: str | None) -> "tuple[Probe | None, list[ProjectIssue]]":
    """What loading ComfyUI showed, if it is asked for; or that it cannot be loaded."""
    if comfyui is None:
        return None, []
    from comfysnap_server.doctor import ProjectIssue
    from comfysnap_server.nodepacks import ProbeError, run_probe

    try:
        return run_probe(comfyui, python or sys.executable), []
    except (ProbeError, OSError) as error:
        return None, [ProjectIssue.error("comfyui_not_loaded", str(comfyui), str(error))]


def _show_pools(deployment: "Deployment") -> None:
    for name, pool in deployment.settings.pools.items():
        gpus = deployment.of_pool(name).settings.gpus or ["no GPU"]
        print(f"pool {name}: {', '.join(pool.workflows)}, on {' or '.join(gpus)}")


def _show_fixes(issues: "list[ProjectIssue]", deployment: "Deployment") -> None:
    from comfysnap_server.doctor import collect_fixes

    found = collect_fixes(issues, deployment)
    if found.toml:
        print(f"\nto add to {deployment.file.name}:\n\n{found.toml}", end="")
    if found.commands:
        print("\nto run:\n")
        print(*(f"  {command}" for command in found.commands), sep="\n")


def show(issues: "list[ProjectIssue]") -> None:
    """Print a table of the issues, and their number by level."""
    from rich.console import Console
    from rich.table import Table

    from comfysnap_server.doctor import Level

    console = Console(highlight=False, width=None if os.isatty(1) else 160)
    order = list(Level)
    if issues:
        table = Table("level", "code", "where", "message", show_lines=True)
        colors = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "dim"}
        for issue in sorted(issues, key=lambda s: order.index(s.level)):
            table.add_row(
                issue.level.value,
                issue.code,
                issue.where,
                issue.message,
                style=colors[issue.level],
            )
        console.print(table, markup=False)
    counts = [(level, sum(s.level is level for s in issues)) for level in order]
    totals = [f"{count} {level.value}{'' if count == 1 else 's'}" for level, count in counts]
    console.print(", ".join(totals))
