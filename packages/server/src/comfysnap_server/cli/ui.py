"""``comfysnap ui``: ComfyUI's own interface on Modal."""

# modal's stubs leave the type of a function partly unknown
# pyright: reportUnknownVariableType=false

import os
import secrets
import sys
import time

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session


def ui(project: ProjectOption = None, environment: EnvironmentOption = None) -> None:
    """Run ComfyUI's own interface with the deployment's image and models, until Ctrl-C.

    A container with the deployment's GPU runs, and costs money, as long as this command does. The
    printed URL has a token: anyone with it can use the interface and, with ComfyUI-Manager, run any
    code in the container.

    Workflows and images are saved in ui/ on the files volume, models from Manager on the models
    volume. Node packs from Manager are lost when the container stops; to keep them, open
    /v2/snapshot/get_current at the printed URL, save it as the file in deploy.nodes, and deploy.

    Example: comfysnap ui
    """
    from comfysnap_server.deploy import read_deployment, select_project

    deployment = read_deployment(project)
    if deployment.settings.engine != "comfyui":
        print("error: deploy.engine must be comfyui for `comfysnap ui`", file=sys.stderr)
        raise typer.Exit(2)
    from comfysnap_server.ui.proxy import ACCESS_VARIABLE

    token = secrets.token_urlsafe(32)
    os.environ[ACCESS_VARIABLE] = token
    select_project(deployment)
    with modal_session(environment=environment):
        from comfysnap_server.ui.app import app
        from comfysnap_server.ui.app import ui as server

        with app.run(environment_name=environment):
            print(f"\n{server.get_web_url()}/?token={token}\n")
            print("The first page loads once ComfyUI has started. Press Ctrl-C to stop.")
            while True:
                time.sleep(3600)
