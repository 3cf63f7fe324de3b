"""Options that commands of every package have, and the groups of ``comfysnap --help``."""

from pathlib import Path
from typing import Annotated

import typer

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="PATH",
        help="Project folder or its comfysnap.toml. Default: this folder or a parent.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NOT_ON_WINDOWS = "this command needs Linux or macOS; on Windows, run it in WSL"

START = "Start"
WORKFLOWS = "Workflows"
SERVE = "A server on this machine"
CALL = "Calls to a server"
MODAL = "Modal"
GROUPS = (START, WORKFLOWS, SERVE, CALL, MODAL)
"""Groups of commands, in the order of the help: the ``rich_help_panel`` of each command."""
OTHER = "Other commands"
