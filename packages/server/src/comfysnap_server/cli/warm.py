"""``comfysnap warm``: containers that keep running until the next deploy."""

import sys
from typing import Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session


def warm(
    count: Annotated[
        int,
        typer.Argument(metavar="MIN", min=0, help="Containers that always run. 0: none."),
    ],
    pool: Annotated[
        str | None, typer.Option("--pool", help="Pool. Default: that of [deploy] itself.")
    ] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """Keep containers of a pool running, so that no job waits for a start. They cost money all the
    time, until the next deploy or `comfysnap warm 0`.

    Exits with 2 if MIN is above max_containers, or the pool is unknown.

    Example: comfysnap warm 2 --pool video
    """
    from comfysnap_server.deploy import dollars, read_deployment, worker_rate

    deployment = read_deployment(project)
    pools = {each.pool: each for each in deployment.pools}
    chosen = pools.get(pool) if pool else deployment.pools[0]
    if chosen is None:
        message = f"unknown pool {pool!r}; available: {', '.join(pools)}"
        print(f"error: --pool: {message}", file=sys.stderr)
        raise typer.Exit(2)
    with modal_session(quiet=True, environment=environment):
        from comfysnap_server.operations import DeployedApp

        function = DeployedApp(deployment).function(chosen.class_name)
        if function is None:
            print(f"error: pool {chosen.pool} is not deployed yet", file=sys.stderr)
            raise typer.Exit(1)
        most = function.autoscaler.settings().max_containers
        if most is not None and count > most:
            print(f"error: MIN must be at most max_containers, {most}", file=sys.stderr)
            raise typer.Exit(2)
        function.autoscaler.update(min_containers=count)
    rate = worker_rate(chosen)
    cost = f", {dollars(rate.of(3600) * count)} an hour" if rate else ""
    if count:
        print(f"pool {chosen.pool}: {count} always run until the next deploy{cost}")
    else:
        print(f"pool {chosen.pool}: scales to zero")
