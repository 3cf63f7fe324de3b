"""``comfysnap purge``: deletes old jobs and files of a local server."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.keys import DataOption, parse_age

if TYPE_CHECKING:
    from comfysnap_server.backends.local import Purgeable
    from comfysnap_server.jobs import OutputStore


def purge(
    owner: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    before: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="Only jobs that ended, and files last used, so long ago, as 7d."
        ),
    ] = "0s",
    jobs: Annotated[
        bool, typer.Option("--jobs", help="Only ended jobs, with their outputs.")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Only uploads that no unfinished job needs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: DataOption = Path(".comfysnap"),
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete ended jobs, their outputs and unused uploads of a server that is stopped.

    Shows what would be deleted and asks. Exits with 1 if a server uses the data folder, or the
    answer is no. A running server deletes by itself what is past keep_jobs, keep_outputs and
    keep_inputs of [serve.local].

    Example: comfysnap purge --owner alice --before 30d
    """
    from comfysnap_server.backends.local import DataFolderError, open_purge
    from comfysnap_server.jobs import OutputStoreError

    both = jobs == files
    try:
        with open_purge(
            data, owner=owner, older_than=parse_age(before).total_seconds(),
            jobs=jobs or both, files=files or both, outputs=_output_store(project),
        ) as work:  # fmt: skip
            found = work.found()
            is_empty = not (found.jobs or found.files)
            if not is_empty and not yes:
                print(_sentence("to delete", found, data), file=sys.stderr)
                if not typer.confirm("Delete this?", err=True):
                    raise typer.Exit(1)
            work.run()
    except (DataFolderError, OutputStoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(found.__dict__))
    elif is_empty:
        print("nothing to delete")
    else:
        print(_sentence("deleted", found, data))


def _output_store(given: Path | None) -> "OutputStore | None":
    """That of the project, which a data folder need not have."""
    from comfysnap_schema.wire import ProjectError
    from comfysnap_schema.workflow import locate_project, read_project
    from comfysnap_server.jobs import open_output_store
    from comfysnap_server.serve_settings import read_serve

    try:
        file = locate_project(given)
    except ProjectError:
        if given is not None:
            raise
        return None
    return open_output_store(read_serve(read_project(file)).outputs)


def _sentence(what: str, found: "Purgeable", data: Path) -> str:
    return (
        f"{what} in {data}: {found.jobs} jobs ({_size(found.job_bytes)}),"
        f" {found.files} uploads ({_size(found.file_bytes)})"
    )


def _size(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} bytes"
    units = ["KiB", "MiB", "GiB", "TiB"]
    while (count := count / 1024) >= 1024 and len(units) > 1:
        del units[0]
    return f"{count:.1f} {units[0]}"
