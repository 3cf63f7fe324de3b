"""Options that commands of every package have."""

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
