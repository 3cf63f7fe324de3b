"""``comfysnap deploy`` and ``rollback``: versions of the project on Modal."""

# modal's stubs leave the type of a function partly unknown
# pyright: reportUnknownVariableType=false

import re
import subprocess
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_schema.wire import SchemaError
from comfysnap_server.cli.modal_session import EnvironmentOption, create_files_volume, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment
    from comfysnap_server.doctor import ProjectIssue


class Strategy(StrEnum):
    """What a deploy does with containers of the version before; Modal's own names."""

    ROLLING = "rolling"
    RECREATE = "recreate"


StrategyOption = Annotated[
    Strategy,
    typer.Option(
        "--strategy",
        help="rolling: old containers end their jobs and stop as new ones start. recreate: old "
        "containers are stopped at once, and their jobs run again.",
    ),
]
WarmUpOption = Annotated[
    bool,
    typer.Option(
        help="Start the gateway and a container of each pool once, so that their snapshots are "
        "made now and not for the first job."
    ),
]


def deploy(
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be deployed, then exit. Needs no account."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Deploy even if `comfysnap doctor` finds errors.")
    ] = False,
    tag: Annotated[
        str, typer.Option(help="Note on this version, shown by `modal app history`.")
    ] = "",
    strategy: StrategyOption = Strategy.ROLLING,
    warm_up: WarmUpOption = True,
) -> None:
    """Deploy the project to Modal: the gateway, and the GPU class with its image.

    Runs the checks of `comfysnap doctor` first and exits with 1 if they find errors. Exits with 2
    if comfysnap.toml is not valid, with 3 if Modal cannot be reached or denies access.

    Example: comfysnap deploy --dry-run
    """
    from comfysnap_server.doctor import Level, examine

    issues, deployment = examine(project)
    _print_issues(issues)
    if deployment is None:
        raise typer.Exit(2)
    failed = any(issue.level is Level.ERROR for issue in issues)
    if failed and not dry_run:
        print("`comfysnap doctor` prints the lines to paste for these errors", file=sys.stderr)
    if failed and not (force or dry_run):
        raise typer.Exit(1)
    try:
        _print_plan(deployment)
    except SchemaError as error:  # printed above
        raise typer.Exit(2) from error
    if dry_run:
        raise typer.Exit(1 if failed else 0)
    _deploy(deployment, environment, tag, strategy)
    if warm_up:
        _warm_up(deployment, environment)


def _print_issues(issues: "list[ProjectIssue]") -> None:
    from comfysnap_server.doctor import Level

    for issue in issues:
        if issue.level is not Level.NOTE:
            text = f"{issue.level.value}: {issue.where}: {issue.message} ({issue.code})"
            print(text, file=sys.stderr)


def _print_plan(deployment: "Deployment") -> None:
    from comfysnap_server.deploy import plan_lines

    part = ""
    for line in plan_lines(deployment):
        print(f"{line.part if line.part != part else '':10} {line.name:24} {line.text}")
        part = line.part


def _deploy(
    deployment: "Deployment", environment: str | None, tag: str, strategy: Strategy
) -> None:
    from comfysnap_server.deploy import notice, select_project
    from comfysnap_server.doctor import check_resources, check_volume

    select_project(deployment)
    with modal_session(environment=environment):
        missing = list(check_resources(deployment))
        _print_issues([*missing, *check_volume(deployment)])
        if missing:
            raise typer.Exit(1)
        create_files_volume(deployment.files_volume, environment)
        from comfysnap_server.deploy.app import app, gateway

        app.deploy(
            name=deployment.name, environment_name=environment, tag=tag, strategy=strategy.value
        )
        address = gateway.get_web_url()
    print(f"\n{deployment.name} is deployed at {address}")
    print(f"to try it:   {_example(deployment, str(address))}")
    print(f"to undo it:  comfysnap rollback --project {deployment.file}")
    print(f"\n{notice()}")


def _example(deployment: "Deployment", address: str) -> str:
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
        typer.Argument(
            help="Version from `modal app history`, for example v3. Default: the previous one."
        ),
    ] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    strategy: StrategyOption = Strategy.ROLLING,
    warm_up: WarmUpOption = True,
) -> None:
    """Go back to an earlier version of the deployment. Jobs and models do not change.

    Example: comfysnap rollback v3
    """
    from comfysnap_server.deploy import read_deployment

    deployment = read_deployment(project)
    if version is not None and not re.fullmatch(r"v?[0-9]+", version):
        print(f"error: {version!r} is not a valid version (for example v3)", file=sys.stderr)
        raise typer.Exit(2)
    if version is not None:
        version = f"v{version.removeprefix('v')}"
    command = [sys.executable, "-m", "modal", "app", "rollback", deployment.name]
    command += [version] if version else []
    command += ["--strategy", strategy.value]
    command += ["--env", environment] if environment else []
    code = subprocess.run(command, check=False).returncode
    if code:
        raise typer.Exit(code)
    if warm_up:
        _warm_up(deployment, environment)


def _warm_up(deployment: "Deployment", environment: str | None) -> None:
    """Start what the first job would wait for; failures are only printed."""
    with modal_session(quiet=True, environment=environment):
        from comfysnap_server.operations import DeployedApp

        for line in DeployedApp(deployment).warm_up():
            print(line)
