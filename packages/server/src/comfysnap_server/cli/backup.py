"""``comfysnap backup``: a copy of the job store of a local server."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def backup(
    target: Annotated[Path, typer.Argument(help="File to write; one that exists is replaced.")],
    data: Annotated[Path, typer.Option(help="Data folder of the server.")] = Path(".comfysnap"),
) -> None:
    """Copy the job store of `comfysnap serve`, also while the server runs.

    The files of jobs are ordinary files in the data folder and are not copied.

    Example: comfysnap backup jobs-backup.sqlite3
    """
    from comfysnap_server.backends.local import DATABASE, DataFolderError, back_up

    try:
        back_up(data / DATABASE, target)
    except DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"copied to {target}; to restore it, stop the server and move it to {data / DATABASE}")
