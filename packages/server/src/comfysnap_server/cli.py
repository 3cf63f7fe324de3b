"""The commands of the server: serve, demo, key, comfyui."""

import typer

from comfysnap_server import cli_comfyui, cli_demo, cli_serve


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    cli_serve.register(app)
    cli_demo.register(app)
    cli_comfyui.register(app)
