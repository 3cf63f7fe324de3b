"""The server's commands, a file for each command or group."""

import typer

from comfysnap_server.cli import comfyui, keys, models, webhooks
from comfysnap_server.cli.backup import backup
from comfysnap_server.cli.demo import demo
from comfysnap_server.cli.deploy import deploy, rollback
from comfysnap_server.cli.destroy import destroy
from comfysnap_server.cli.doctor import doctor
from comfysnap_server.cli.info import info
from comfysnap_server.cli.logs import logs
from comfysnap_server.cli.measure import measure
from comfysnap_server.cli.open import open_
from comfysnap_server.cli.purge import purge
from comfysnap_server.cli.serve import serve
from comfysnap_server.cli.ui import ui
from comfysnap_server.cli.warm import warm


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, backup, purge, demo, doctor):
        app.command()(command)
    for command in (deploy, rollback, info, logs, warm, measure, destroy, ui):
        app.command()(command)
    app.command("open")(open_)
    app.add_typer(keys.app, name="keys")
    app.add_typer(comfyui.app, name="comfyui")
    app.add_typer(models.app, name="models")
    app.add_typer(webhooks.app, name="webhooks")
