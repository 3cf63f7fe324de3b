"""The commands of the server: serve, demo, key."""

import typer

from comfysnap_server import cli_demo, cli_serve


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    cli_serve.register(app)
    cli_demo.register(app)
