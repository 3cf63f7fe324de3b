"""``comfysnap generate``: write the typed modules, or say which drifted."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
