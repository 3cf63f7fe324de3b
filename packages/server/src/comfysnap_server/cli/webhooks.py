"""``comfysnap webhooks``: what became of them, sending one again, and their secret."""

import base64
import json
import os
import secrets
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy.webhooks import DeployedWebhooks
    from comfysnap_server.jobs import Delivery

app = typer.Typer(help="List and resend webhooks, and create their secret.", no_args_is_help=True)

DataOption = Annotated[Path, typer.Option(help="Data folder of the server.")]
DeployedOption = Annotated[
    bool, typer.Option("--deployed", help="Of the deployment, instead of a data folder.")
]
_DATA: Final = Path(".comfysnap")


@app.command("list")
def list_(
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that are not tried again.")
    ] = False,
    as_json: JsonOption = False,
    data: DataOption = _DATA,
    deployed: DeployedOption = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """List the webhooks of jobs that ended, the newest first, also while the server runs.

    Example: comfysnap webhooks list --failed
    """
    from comfysnap_server.backends.local import DATABASE, DataFolderError, list_webhooks

    if deployed:
        with modal_session(quiet=True):
            found = _deployed(project, environment).list(failed=failed)
    else:
        try:
            found = list_webhooks(data / DATABASE, failed=failed)
        except DataFolderError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
    if as_json:
        print(json.dumps([_as_json(job_id, delivery) for job_id, delivery in found], indent=2))
    else:
        _print(found)


@app.command()
def resend(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="ID of the job: job_...")],
    data: DataOption = _DATA,
    deployed: DeployedOption = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """Send the webhook of a job again, with all its attempts.

    A local server sends it within seconds, or when it starts.

    Example: comfysnap webhooks resend job_01kb3v8gkqm4
    """
    from comfysnap_server.backends.local import DATABASE, DataFolderError, resend_webhook

    if deployed:
        with modal_session(quiet=True):
            delivery = _deployed(project, environment).resend(job_id)
        if delivery is None:
            print(f"error: {job_id}: unknown job, or one without a webhook", file=sys.stderr)
            raise typer.Exit(1)
    else:
        try:
            delivery = resend_webhook(data / DATABASE, job_id)
        except DataFolderError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
    print(f"{job_id} is sent again to {delivery.host}")


@app.command()
def secret() -> None:
    """Create a secret that signs webhooks, for the server and for what receives them.

    To replace a secret, set both, separated by a space; once every receiver has the new one, remove
    the old one.

    Example: comfysnap webhooks secret
    """
    from comfysnap_server.jobs import SECRET_VARIABLE

    fresh = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    print(f"export {SECRET_VARIABLE}='{fresh}'")


def _deployed(project: Path | None, environment: str | None) -> "DeployedWebhooks":
    from comfysnap_server.deploy import read_deployment
    from comfysnap_server.deploy.webhooks import DeployedWebhooks

    if environment:
        os.environ["MODAL_ENVIRONMENT"] = environment
    return DeployedWebhooks(read_deployment(project).name)


def _as_json(job_id: str, delivery: "Delivery") -> dict[str, object]:
    due = delivery.due_at if delivery.state == "pending" else None
    return {
        "job": job_id,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "url": delivery.url,
        "last_error": delivery.last_error,
        "due_at": due and datetime.fromtimestamp(due, UTC).isoformat(timespec="seconds"),
    }


def _print(found: "Iterable[tuple[str, Delivery]]") -> None:
    rows = [_as_json(job_id, delivery) for job_id, delivery in found]
    if not rows:
        print("no webhooks")
    for row in rows:
        when = f", next {row['due_at']}" if row["due_at"] else ""
        why = f": {row['last_error']}" if row["last_error"] else ""
        print(f"{row['job']}  {row['state']}  {row['attempts']} attempts{when}  {row['url']}{why}")
