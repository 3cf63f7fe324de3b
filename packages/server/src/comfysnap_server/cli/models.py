"""``comfysnap models``: fill, list and clear the models volume or a local ``models/`` folder."""

import json
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.models import ModelsPlace, SyncEvent, SyncOptions

ProjectOption = Annotated[
    Path | None,
    typer.Option("--project", help="The comfysnap.toml, or its folder."),
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--to", help="A local models/ folder instead of the volume on Modal."),
]


def register(app: typer.Typer) -> None:
    """Add ``models``."""
    models = typer.Typer(no_args_is_help=True, help="Fill, list and clear the models volume.")
    models.command("sync")(sync)
    models.command("list")(list_models)
    models.command("rm")(remove)
    app.add_typer(models, name="models")


def sync(
    project: ProjectOption = None,
    to: FolderOption = None,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Files brought at once.")] = 4,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again instead of trusting the record.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be brought, and stop.")
    ] = False,
) -> None:
    """Bring the models of the list (deploy.models) that are missing or wrong.

    Without --to a CPU container on Modal fills the volume; tokens come from deploy.model_secrets.
    With --to this machine fills the folder; tokens come from the environment (HF_TOKEN,
    CIVITAI_TOKEN). Interrupted downloads go on where they stopped. Exits 1 if a file is missing.
    """
    from comfysnap_server.cli.model_tables import show_events
    from comfysnap_server.deploy import read_deployment
    from comfysnap_server.models import ModelError, SyncOptions

    deployment = read_deployment(project)
    if not deployment.settings.models:
        print("[[deploy.models]] names no model; nothing to do")
        return
    options = SyncOptions(workers=workers, verify=verify, dry_run=dry_run)
    events = (
        _events_on_modal(deployment, options)
        if to is None
        else _events_here(deployment, to, options)
    )
    try:
        good = show_events(events)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    raise typer.Exit(0 if good else 1)


def _events_on_modal(deployment: "Deployment", options: "SyncOptions") -> Iterator["SyncEvent"]:
    from comfysnap_server.deploy import modal_session, point_at

    point_at(deployment)
    from comfysnap_server.deploy.model_sync import app, sync_models

    interrupted = False
    with modal_session(), app.run():
        try:
            yield from sync_models.remote_gen(options)
        except KeyboardInterrupt:  # app.run would swallow it, and the sync would seem complete
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _events_here(
    deployment: "Deployment", folder: Path, options: "SyncOptions"
) -> Iterator["SyncEvent"]:
    import queue
    import threading

    from comfysnap_server.models import ModelsFolder
    from comfysnap_server.models import sync as sync_folder

    events: queue.SimpleQueue[SyncEvent | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            place = ModelsFolder.at(folder)
            models = deployment.settings.models
            sync_folder(models, place, tell=events.put, options=options, stop=stop)
            events.put(None)
        except BaseException as error:  # raised again where the events are read
            events.put(error)

    thread = threading.Thread(target=work, name="sync")
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.set()
        thread.join()


def list_models(
    project: ProjectOption = None,
    to: FolderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the models of the list and every other file, with what uses them."""
    from comfysnap_server.cli.model_tables import model_rows, show_rows
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    with _place(deployment, to) as place:
        rows = model_rows(deployment, place)
    if as_json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
    else:
        show_rows(rows)


def remove(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files below models/, as checkpoints/a.safetensors.")
    ] = None,
    project: ProjectOption = None,
    to: FolderOption = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Every file that no workflow uses and no list names.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete model files.

    A file that containers had open when their snapshot was made must stay until the next deploy:
    Modal cannot restore a snapshot whose open files are gone.
    """
    from comfysnap_server.cli.model_tables import model_rows
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    chosen = [PurePosixPath(path) for path in paths or []]
    with _place(deployment, to) as place:
        if unused:
            chosen += [row.path for row in model_rows(deployment, place) if row.is_unused]
        if not chosen:
            print("nothing to delete" if unused else "name files, or give --unused")
            raise typer.Exit(0 if unused else 2)
        for path in chosen:
            print(path)
        if not yes and not typer.confirm(f"Delete {len(chosen)} files?"):
            raise typer.Exit(1)
        raise typer.Exit(0 if _remove(place, chosen) else 1)


def _remove(place: "ModelsPlace", paths: Iterable[PurePosixPath]) -> bool:
    good = True
    for path in paths:
        try:
            found = place.remove(path)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        if not found:
            print(f"error: there is no {path}", file=sys.stderr)
            good = False
    return good


@contextmanager
def _place(deployment: "Deployment", folder: Path | None) -> Generator["ModelsPlace"]:
    if folder is not None:
        from comfysnap_server.models import ModelsFolder

        yield ModelsFolder.at(folder)
        return
    from comfysnap_server.deploy import modal_session
    from comfysnap_server.models import ModelsVolume

    with modal_session(quiet=True):
        yield ModelsVolume(deployment.models_volume)
