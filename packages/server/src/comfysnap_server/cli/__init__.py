"""The server's commands. ``deploy``, ``doctor`` and ``models`` are entry points of their own."""

import typer

from comfysnap_server.cli import comfyui, demo, serve


def register(app: typer.Typer) -> None:
    """Add ``serve``, ``key``, ``demo`` and ``comfyui``."""
    serve.register(app)
    demo.register(app)
    comfyui.register(app)
