"""``comfysnap deploy``, ``rollback`` and ``ui``: what runs on Modal."""

# modal's stubs leave the type of a function partly unknown
# pyright: reportUnknownVariableType=false

import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.doctor import Symptom

ProjectOption = Annotated[
    Path | None, typer.Option("--project", help="The comfysnap.toml, or its folder.")
]
EnvironmentOption = Annotated[
    str | None, typer.Option("--env", "-e", envvar="MODAL_ENVIRONMENT", help="Modal environment.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("deploy")(deploy)
    app.command("rollback")(rollback)
    app.command("ui")(ui)


def deploy(
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made; needs no account.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Deploy although the doctor found errors.")
    ] = False,
    tag: Annotated[str, typer.Option(help="A note on this version, kept by Modal.")] = "",
) -> None:
    """Put the project on Modal: the gateway, and the GPU class with its image.

    Runs the checks of `comfysnap doctor` first, and stops on errors with exit code 1; 2 when
    comfysnap.toml is wrong, 3 when Modal cannot be reached or refuses.
    """
    from comfysnap_server.doctor import examine

    found = examine(project)
    _show_problems(list(found.symptoms))
    if found.deployment is None:
        raise typer.Exit(2)
    if found.errors and not (force or dry_run):
        raise typer.Exit(1)
    _show_plan(found.deployment)
    if dry_run:
        raise typer.Exit(1 if found.errors else 0)
    _deploy(found.deployment, environment, tag)


def _show_problems(symptoms: "list[Symptom]") -> None:
    from comfysnap_server.doctor import Level

    for symptom in symptoms:
        if symptom.level is not Level.NOTE:
            text = f"{symptom.level.value}: {symptom.where}: {symptom.message} ({symptom.code})"
            print(text, file=sys.stderr)


def _show_plan(deployment: "Deployment") -> None:
    from comfysnap_server.deploy import plan_lines

    part = ""
    for line in plan_lines(deployment):
        print(f"{line.part if line.part != part else '':10} {line.name:24} {line.text}")
        part = line.part


def _deploy(deployment: "Deployment", environment: str | None, tag: str) -> None:
    from comfysnap_server.deploy import modal_session, notice, point_at
    from comfysnap_server.doctor import check_needs, check_volume

    if environment:
        os.environ["MODAL_ENVIRONMENT"] = environment
    point_at(deployment)
    with modal_session():
        missing = list(check_needs(deployment))
        _show_problems([*missing, *check_volume(deployment)])
        if missing:
            raise typer.Exit(1)
        from comfysnap_server.deploy.app import app, gateway

        app.deploy(name=deployment.name, environment_name=environment, tag=tag)
        address = gateway.get_web_url()
    print(f"\n{deployment.name} is deployed at {address}")
    print(f"try it:    {_try_it(deployment, str(address))}")
    print(f"undo it:   comfysnap rollback --project {deployment.file}")
    print(f"\n{notice()}")


def _try_it(deployment: "Deployment", address: str) -> str:
    access = {
        "proxy": "MODAL_KEY=wk-... MODAL_SECRET=ws-... ",
        "keys": "COMFYSNAP_API_KEY=... ",
        "none": "",
    }[deployment.settings.auth]
    name = deployment.project.default or next(iter(deployment.workflows))
    return f"{access}COMFYSNAP_URL={address} comfysnap infer {name}"


def rollback(
    version: Annotated[
        str | None,
        typer.Argument(help="A version of `modal app history`, as v3; default: the one before."),
    ] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """Go back to an earlier version of the deployment; jobs and models stay as they are."""
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    if version is not None and not re.fullmatch(r"v?[0-9]+", version):
        print(f"error: {version!r} is no version; write one as v3", file=sys.stderr)
        raise typer.Exit(2)
    command = [sys.executable, "-m", "modal", "app", "rollback", deployment.name]
    command += [version] if version else []
    command += ["--env", environment] if environment else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def ui(project: ProjectOption = None, environment: EnvironmentOption = None) -> None:
    """Open ComfyUI's own interface on the deployment's image and models, until Ctrl-C.

    One container with the deployment's GPU runs and is paid for while this command does. The
    address that is printed holds a token; whoever has it can use the interface and, with Manager,
    install node packs and so run any code in the container.

    Saved workflows and pictures stay on the files volume, below ui/, and models that Manager
    downloads on the models volume. Node packs that Manager installs are lost when the container
    stops; to keep them, open /v2/snapshot/get_current at the printed address, save it as the file
    that deploy.nodes names, and deploy.
    """
    from comfysnap_server.deploy import modal_session, point_at, read_deployment

    deployment = read_deployment(project)
    if deployment.settings.engine != "comfyui":
        print("error: deploy.engine is not comfyui, so there is no interface", file=sys.stderr)
        raise typer.Exit(2)
    from comfysnap_server.ui.proxy import ACCESS_VARIABLE

    token = secrets.token_urlsafe(32)
    os.environ[ACCESS_VARIABLE] = token
    point_at(deployment)
    with modal_session():
        from comfysnap_server.ui.app import app
        from comfysnap_server.ui.app import ui as server

        with app.run(environment_name=environment):
            print(f"\n{server.get_web_url()}/?token={token}\n")
            print("The first page takes as long as ComfyUI takes to start. Ctrl-C ends it.")
            while True:
                time.sleep(3600)
