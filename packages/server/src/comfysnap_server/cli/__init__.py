"""The server's commands, a file for each command or group."""

import typer

from comfysnap_schema.cli.options import MODAL, SERVE, START
from comfysnap_server.cli import comfyui, keys, models, webhooks
from comfysnap_server.cli.backup import backup
from comfysnap_server.cli.demo import demo
from comfysnap_server.cli.deploy import deploy, rollback
from comfysnap_server.cli.destroy import destroy
from comfysnap_server.cli.doctor import doctor
from comfysnap_server.cli.info import info
from comfysnap_server.cli.logs import logs
from comfysnap_server.cli.mcp import mcp
from comfysnap_server.cli.measure import measure
from comfysnap_server.cli.purge import purge
from comfysnap_server.cli.serve import serve
from comfysnap_server.cli.ui import ui
from comfysnap_server.cli.warm import warm


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=START)(demo)
    for command in (serve, mcp, backup, purge):
        app.command(rich_help_panel=SERVE)(command)
    app.add_typer(keys.app, name="keys", rich_help_panel=SERVE)
    app.add_typer(webhooks.app, name="webhooks", rich_help_panel=SERVE)
    app.add_typer(comfyui.app, name="comfyui", rich_help_panel=SERVE)
    for command in (doctor, deploy, rollback, info, logs, warm, measure, destroy, ui):
        app.command(rich_help_panel=MODAL)(command)
    app.add_typer(models.app, name="models", rich_help_panel=MODAL)
