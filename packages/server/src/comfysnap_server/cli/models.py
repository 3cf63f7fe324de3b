"""``comfysnap models``: downloads, lists and deletes models, on Modal or in a local folder."""

import json
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.models import ModelStorage, SyncEvent, SyncOptions

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FOLDER", help="Local models/ folder. Default: the models volume on Modal."
    ),
]


def sync(
    project: ProjectOption = None,
    to: FolderOption = None,
    environment: EnvironmentOption = None,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Number of parallel downloads.")] = 4,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file again instead of trusting the record.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be downloaded, then exit.")
    ] = False,
) -> None:
    """Download the models in deploy.models that are missing or wrong.

    Without --to, a container on Modal downloads to the volume, with tokens from
    deploy.model_secrets. With --to, this machine downloads to the folder, with tokens from the
    environment (HF_TOKEN, CIVITAI_TOKEN). Run the command again to resume. Exits with 1 if a
    download fails.

    Example: comfysnap models sync --dry-run
    """
    from comfysnap_server.cli.model_tables import show_events
    from comfysnap_server.deploy import read_deployment
    from comfysnap_server.models import ModelError, SyncOptions

    deployment = read_deployment(project)
    if not deployment.settings.models:
        print("nothing to download: [[deploy.models]] is empty")
        return
    options = SyncOptions(workers=workers, verify=verify, dry_run=dry_run)
    events = (
        _events_on_modal(deployment, options, environment)
        if to is None
        else _local_events(deployment, to, options)
    )
    try:
        complete = show_events(events)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    raise typer.Exit(0 if complete else 1)


def _events_on_modal(
    deployment: "Deployment", options: "SyncOptions", environment: str | None
) -> Iterator["SyncEvent"]:
    from comfysnap_server.deploy import select_project

    select_project(deployment)
    from comfysnap_server.deploy.model_sync import app, sync_models

    interrupted = False
    with modal_session(environment=environment), app.run():
        try:
            yield from sync_models.remote_gen(options)
        except KeyboardInterrupt:  # app.run would hide it, and the sync would seem complete
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _local_events(
    deployment: "Deployment", folder: Path, options: "SyncOptions"
) -> Iterator["SyncEvent"]:
    import queue
    import threading

    from comfysnap_server.models import ModelsFolder, Stop
    from comfysnap_server.models import sync as sync_folder

    events: queue.SimpleQueue[SyncEvent | BaseException | None] = queue.SimpleQueue()
    stop = Stop()

    def work() -> None:
        try:
            storage = ModelsFolder.at(folder)
            models = deployment.settings.models
            sync_folder(models, storage, on_event=events.put, options=options, stop=stop)
            events.put(None)
        except BaseException as error:  # raised again by the consumer of the events
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
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models in deploy.models and all other files, with the workflows that use them.

    Example: comfysnap models list --json
    """
    from comfysnap_server.cli.model_tables import model_rows, show_rows
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    with _storage(deployment, to, environment) as storage:
        rows = model_rows(deployment, storage)
    if as_json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
    else:
        show_rows(rows)


def remove(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Files in models/, for example checkpoints/a.safetensors."),
    ] = None,
    project: ProjectOption = None,
    to: FolderOption = None,
    environment: EnvironmentOption = None,
    unused: Annotated[
        bool,
        typer.Option("--unused", help="All files that are neither used nor in deploy.models."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete model files.

    Do not delete a file that a snapshot has open (deploy.preload) before the next deploy: Modal
    could not restore the snapshot.

    Example: comfysnap models rm --unused
    """
    from comfysnap_server.cli.model_tables import model_rows
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    chosen = [PurePosixPath(path) for path in paths or []]
    with _storage(deployment, to, environment) as storage:
        if unused:
            chosen += [row.path for row in model_rows(deployment, storage) if row.is_unused]
        if not chosen:
            if unused:
                print("nothing to delete")
                raise typer.Exit
            print("error: expected PATHS or --unused", file=sys.stderr)
            raise typer.Exit(2)
        for path in chosen:
            print(path)
        if not yes and not typer.confirm(f"Delete {len(chosen)} files?"):
            raise typer.Exit(1)
        raise typer.Exit(0 if _remove(storage, chosen) else 1)


def _remove(storage: "ModelStorage", paths: Iterable[PurePosixPath]) -> bool:
    found_all = True
    for path in paths:
        try:
            found = storage.remove(path)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        if not found:
            print(f"error: {path} not found", file=sys.stderr)
            found_all = False
    return found_all


@contextmanager
def _storage(
    deployment: "Deployment", folder: Path | None, environment: str | None
) -> Generator["ModelStorage"]:
    if folder is not None:
        from comfysnap_server.models import ModelsFolder

        yield ModelsFolder.at(folder)
        return
    from comfysnap_server.models import ModelsVolume

    with modal_session(quiet=True, environment=environment):
        yield ModelsVolume(deployment.models_volume)


app = typer.Typer(
    no_args_is_help=True, help="Download, list and delete models, on Modal or in a local folder."
)
app.command("sync")(sync)
app.command("list")(list_models)
app.command("rm")(remove)
