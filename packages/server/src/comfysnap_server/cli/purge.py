"""``comfysnap purge``: deletes old jobs and files of a local server."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import JsonOption
from comfysnap_server.cli.keys import DataOption, parse_age

if TYPE_CHECKING:
    from comfysnap_server.backends.local import Purgeable


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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    data: DataOption = Path(".comfysnap"),
    as_json: JsonOption = False,
) -> None:
    """Delete ended jobs, their outputs and unused uploads of a server that is stopped.

    Shows what would be deleted and asks. Exits with 1 if a server uses the data folder, or the
    answer is no. A running server deletes by itself what is past keep_jobs, keep_outputs and
    keep_inputs of [serve.local].

    Example: comfysnap purge --owner alice --before 30d
    """
    from comfysnap_server.backends.local import DataFolderError, open_purge

    both = jobs == files
    try:
        with open_purge(
            data, owner=owner, older_than=parse_age(before).total_seconds(),
            jobs=jobs or both, files=files or both,
        ) as work:  # fmt: skip
            found = work.found()
            is_empty = not (found.jobs or found.files)
            if not is_empty and not yes:
                print(_sentence("to delete", found, data), file=sys.stderr)
                if not typer.confirm("Delete this?", err=True):
                    raise typer.Exit(1)
            work.run()
    except DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(found.__dict__))
    elif is_empty:
        print("nothing to delete")
    else:
        print(_sentence("deleted", found, data))


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
