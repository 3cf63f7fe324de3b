"""``comfysnap update``: a new export for a workflow that has its map."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow import GRAPH_FILE, SPEC_FILE, open_project

if TYPE_CHECKING:
    from comfysnap_schema.propose import Update


def update(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the workflow's folder.")],
    export: Annotated[
        Path | None,
        typer.Argument(
            metavar="EXPORT",
            help="A new export of its graph, as for `new`. Default: the graph stays.",
        ),
    ] = None,
    object_info: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="Node catalogue: an object_info.json, or the URL of a running ComfyUI."
            " Default: the nodes.json in the folder.",
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="A node id and its new one. Repeatable."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Remove an input or output. Repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
    ] = False,
    project: ProjectOption = None,
) -> None:
    """Bring a workflow up to date with a new export of its graph; its map stays.

    Names, bounds, texts and comments of workflow.toml are kept; nodes are followed by id, else by
    class, title and links. Nothing is written, and the exit code is 1, if a match is not certain.

    Example: comfysnap update flux flux_api.json --dry-run
    """
    from comfysnap_schema.cli.exported import read_exported
    from comfysnap_schema.comfy import CATALOGUE_FILE, Catalogue
    from comfysnap_schema.propose import plan_update

    folder = open_project(project).workflows / name
    if not (folder / SPEC_FILE).is_file():
        message = f"no such workflow; to create it, run: comfysnap new {name} EXPORT.json"
        raise WorkflowError("unknown_workflow", message, file=str(folder))
    if export is None and object_info is None:
        message = "pass a new export, or --object-info to add what the nodes allow"
        raise WorkflowError("nothing_to_do", message, file=str(folder))
    own = folder / CATALOGUE_FILE
    catalogue = Catalogue.read(object_info) if object_info else None
    known = catalogue or (Catalogue.load(own) if own.is_file() else None)
    exported = read_exported(export or folder / GRAPH_FILE, known)
    plan = plan_update(
        folder,
        exported.graph,
        catalogue,
        exported.drawing,
        editor_workflow=exported.editor_workflow,
        nodes=dict(_pair(text) for text in node or ()),
        drop=drop or (),
    )
    _show(plan, exported.notes)
    if plan.doubts:
        print("nothing was written; say which node is which with --node OLD=NEW, remove what is"
              f" gone with --drop NAME, or edit {folder / SPEC_FILE}")  # fmt: skip
        raise typer.Exit(1)
    if not plan.files:
        print("nothing to change")
    elif dry_run:
        print(f"would write {', '.join(plan.files)} in {folder}")
    else:
        plan.write(folder)
        print(f"wrote {', '.join(plan.files)} in {folder}; next: comfysnap generate")


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        message = f"invalid --node {text!r}: use OLD=NEW, for example 6=12"
        raise WorkflowError("invalid_node", message)
    return old, new


def _show(plan: "Update", notes: tuple[str, ...]) -> None:
    for line in plan.changes:
        print(line)
    for message, breaks in plan.callers:
        print(f"{'BREAKS' if breaks else 'ok':<7}{message}")
    for note in (*notes, *plan.notes):
        print(f"note: {note}")
    for doubt in plan.doubts:
        print(f"unsure: {doubt}")
