"""``comfysnap logs``: the lines of one job on Modal."""

import asyncio
import json
import sys
from typing import Annotated

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session


def logs(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="ID of the job: job_...")],
    container: Annotated[
        bool,
        typer.Option(
            "--container",
            help="Also what the containers that ran the job wrote before it and beside it.",
        ),
    ] = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what Modal's logs have of one job, in all its attempts, whoever submitted it.

    Exits with 1 if the job is not known.

    Example: comfysnap logs job_01k8... --container
    """
    from comfysnap_server.deploy import read_deployment
    from comfysnap_server.errors import BackendError

    deployment = read_deployment(project)
    try:
        with modal_session(quiet=True, environment=environment):
            from comfysnap_server.operations import DeployedApp

            deployed = DeployedApp(deployment)
            job = asyncio.run(deployed.jobs.find(job_id))
            lines = deployed.logs_of(job, whole_container=container)
    except BackendError as error:
        print(f"error: {job_id}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps([line.as_json() for line in lines], indent=1))
        return
    for line in lines:
        print(f"{line.at:%Y-%m-%d %H:%M:%S} {line.container} {line.text}")
    if not lines:
        print(f"{job_id} is {job.record.status}; no lines of it yet", file=sys.stderr)
