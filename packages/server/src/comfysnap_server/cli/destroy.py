"""``comfysnap destroy``: deletes a deployment from Modal."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.operations import DeployedApp

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def destroy(
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    volumes: Annotated[
        list[str] | None,
        typer.Option(
            "--volume",
            metavar="NAME",
            help="Also delete this volume of the deployment, with all its files. Repeatable.",
        ),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Delete the deployment: its app with all containers, its job records and its queue.

    Models, input and output files stay on their volumes unless --volume names them; secrets and
    other volumes are never deleted. Says what it deletes and asks first.

    Example: comfysnap destroy --volume studio-files
    """
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    named = volumes or []
    own = [deployment.models_volume, deployment.files_volume]
    if deployment.remote_models.enabled:
        own.append(deployment.model_cache_volume)
    for name in named:
        if name not in own:
            message = f"{name!r} is not a volume of this deployment; available: {', '.join(own)}"
            print(f"error: --volume: {message}", file=sys.stderr)
            raise typer.Exit(2)
    with modal_session(quiet=True, environment=environment):
        from comfysnap_server.operations import delete_objects, find_deployed, object_names

        deployed = find_deployed(deployment)
        objects = object_names(deployment)
        _say(deployment, deployed, objects, named, [name for name in own if name not in named])
        if not yes:
            answer = typer.prompt(f"Type {deployment.name} to delete it")
            if answer.strip() != deployment.name:
                print("nothing was deleted", file=sys.stderr)
                raise typer.Exit(1)
        if deployed is not None:
            deployed.stop()
        delete_objects(objects, named)
    print(f"{deployment.name} is deleted")


def _say(
    deployment: "Deployment",
    deployed: "DeployedApp | None",
    objects: list[tuple[str, str]],
    named: list[str],
    kept: list[str],
) -> None:
    print("to be deleted:")
    if deployed is None:
        print(f"  app     {deployment.name} (not deployed)")
    else:
        states = deployed.pool_states()
        containers = sum(state.containers for state in states)
        unfinished = sum(state.running + state.queued for state in states)
        print(
            f"  app     {deployment.name}, version {deployed.version}: {containers} containers, "
            f"{unfinished} unfinished jobs"
        )
    for kind, name in objects:
        print(f"  {kind:7} {name}")
    for name in named:
        print(f"  volume  {name}, with all its files")
    print(f"kept: {', '.join(['secrets', *(f'volume {name}' for name in kept)])}")
