"""``comfysnap new``: a workflow folder from a ComfyUI export."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import WORKFLOW_NAME_PATTERN, WorkflowError
from comfysnap_schema.workflow import PROJECT_FILE, find_project, open_project

if TYPE_CHECKING:
    from comfysnap_schema.comfy import Drawing
    from comfysnap_schema.propose import Proposal, Scaffold
    from comfysnap_schema.workflow import Parameter


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the workflow, as in its routes.")
    ],
    graph: Annotated[
        Path,
        typer.Argument(
            metavar="EXPORT",
            help="A file exported by ComfyUI, API or UI format, or a picture or video it saved.",
        ),
    ],
    object_info: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="Node catalogue: an object_info.json, or the URL of a running ComfyUI.",
        ),
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Create a workflow folder from a ComfyUI export, with a proposed input map.

    Example: comfysnap new flux flux_api.json --object-info http://127.0.0.1:8188
    """
    from comfysnap_schema.cli.exported import read_exported
    from comfysnap_schema.comfy import Catalogue
    from comfysnap_schema.propose import propose, write_workflow

    _check_name(name)
    catalogue = Catalogue.read(object_info) if object_info else None
    exported = read_exported(graph, catalogue)
    nodes, drawing = exported.graph, exported.drawing
    proposal = propose(nodes, catalogue, name=name, drawing=drawing)
    settings = open_project(project)
    folder = settings.workflows / name
    scaffold = write_workflow(
        folder, nodes, proposal, catalogue, drawing, editor_workflow=exported.editor_workflow
    )
    if project is None and find_project(Path.cwd()) is None:
        _start_project(Path.cwd())
    _show(scaffold, proposal)
    _show_sources(folder, settings.deploy, drawing)
    for note in exported.notes:
        print(f"note: {note}")
    print(f"wrote {folder}; next: comfysnap generate")


def _check_name(name: str) -> None:
    import keyword

    if not re.fullmatch(WORKFLOW_NAME_PATTERN.strip("^$"), name) or keyword.iskeyword(name):
        raise WorkflowError(
            "invalid_name",
            f"invalid workflow name {name!r}: use a-z, 0-9 and _, starting with a letter, and not a"
            " Python keyword",
        )


def _start_project(folder: Path) -> None:
    from comfysnap_schema.cli.init import project_name, project_text

    text = project_text(project_name(folder))
    (folder / PROJECT_FILE).write_text(text, encoding="utf-8")
    print(f"wrote {folder / PROJECT_FILE}")


def _show(scaffold: "Scaffold", proposal: "Proposal") -> None:
    from rich.console import Console
    from rich.table import Table

    workflow = scaffold.workflow
    table = Table(title=f"{workflow.name}: proposed inputs")
    nodes = {entry.name: _nodes(entry.nodes) for entry in proposal.inputs}
    rows = [
        (name, _type(p), _range(p), _default(p), nodes.get(name, ""))
        for name, p in workflow.parameters.items()
    ]
    headings = ("parameter", "type", "range", "default", "node")
    console = Console(markup=False, highlight=False)
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(3)]
    # On a narrow terminal, only defaults and node titles are cut.
    rest = max(8, (console.width - sum(widths) - 3 * len(headings) - 1) // 2)
    for heading, width in zip(headings, (*widths, rest, rest), strict=True):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=width)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name, spec in workflow.outputs.items():
        many = "list of " if spec.many else ""
        print(f"output {name}: {many}{spec.kind}, from node {spec.node}")
    for name, reason in scaffold.disabled.items():
        print(f"note: {name} is commented out: {reason}")
    for note in proposal.notes:
        print(f"note: {note}")


def _show_sources(folder: Path, deploy: "dict[str, Any]", drawing: "Drawing") -> None:
    """Print what a deployment still lacks: models to paste, node packs."""
    from comfysnap_schema.propose import SNAPSHOT_FILE, snapshot, tables_text, tables_to_add

    tables = tables_to_add(folder, deploy)
    if tables:
        print(f"\nto deploy it, add these models to {PROJECT_FILE}:\n")
        print(tables_text(tables))
    packs, unpinned = snapshot(drawing.packs)
    if packs:
        print(f'note: {folder / SNAPSHOT_FILE} pins its node packs, for [deploy] nodes = "..."')
    for pack in unpinned:
        print(
            f"note: node pack {pack.id or pack.repo} has no version that can be pinned"
            f" ({pack.version or 'none'}); add it to snapshot.json by hand"
        )


def _nodes(titles: Sequence[str]) -> str:
    more = f" +{len(titles) - 1}" if len(titles) > 1 else ""
    return f"{_short(titles[0])}{more}" if titles else ""


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 24 else f"{text[:23]}…"


def _type(parameter: "Parameter") -> str:
    if parameter.type == "file":
        return str(parameter.kind)
    return "choice" if parameter.choices else parameter.type


def _range(parameter: "Parameter") -> str:
    if parameter.choices:
        shown = ", ".join(map(str, parameter.choices))
        return shown if len(shown) <= 24 else f"one of {len(parameter.choices)}"
    if parameter.minimum is None and parameter.maximum is None:
        return ""
    low = "" if parameter.minimum is None else str(parameter.minimum)
    high = "" if parameter.maximum is None else str(parameter.maximum)
    step = f" by {parameter.multiple_of}" if parameter.multiple_of else ""
    return f"{low} to {'2^64 - 1' if parameter.maximum == 2**64 - 1 else high}{step}"


def _default(parameter: "Parameter") -> str:
    if parameter.random:
        return "random"
    return "required" if parameter.required else _short(parameter.default)
