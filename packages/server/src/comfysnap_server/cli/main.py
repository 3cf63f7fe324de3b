"""The commands of the server: serve, demo, key, comfyui."""

import typer

from comfysnap_server.cli import comfyui, demo, serve


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    serve.register(app)
    demo.register(app)
    comfyui.register(app)
