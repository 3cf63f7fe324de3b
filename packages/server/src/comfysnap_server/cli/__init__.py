"""The server's commands, a file for each command or group."""

import typer

from comfysnap_server.cli import comfyui, keys, models
from comfysnap_server.cli.backup import backup
from comfysnap_server.cli.demo import demo
from comfysnap_server.cli.deploy import deploy, rollback
from comfysnap_server.cli.doctor import doctor
from comfysnap_server.cli.purge import purge
from comfysnap_server.cli.serve import serve
from comfysnap_server.cli.ui import ui


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, backup, purge, demo, doctor, deploy, rollback, ui):
        app.command()(command)
    app.add_typer(keys.app, name="keys")
    app.add_typer(comfyui.app, name="comfyui")
    app.add_typer(models.app, name="models")
