"""The commands of the client: infer, status, result, cancel, jobs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.wire import JobStatus

if TYPE_CHECKING:
    from comfysnap_client.client import Client

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="COMFYSNAP_URL", show_default=False,
        help="Address of the server. Keys come from COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET.",
    ),
]  # fmt: skip
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the files; made when it is not there.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for everything.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Previews = Annotated[
    bool | None,
    typer.Option(
        "--previews/--no-previews",
        help="Show preview frames; by default where the terminal can (kitty, iTerm2).",
    ),
]
JobId = Annotated[str, typer.Argument(help="As `infer` printed it.", show_default=False)]

DEFAULT_URL = "http://127.0.0.1:8000"


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    for command in (infer, status, result, cancel, jobs):
        app.command()(command)


def infer(
    workflow: Annotated[
        str, typer.Argument(help="Its name; left out: the server's default.", show_default=False)
    ] = "",
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            show_default=False,
            help="As the workflow takes them; KEY=@FILE uploads a file, KEY=@- reads stdin.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    out: Out = Path(),
    timeout: Timeout = 600.0,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Print the job's id and leave it running.")
    ] = True,
    label: Annotated[
        list[str] | None, typer.Option(help="KEY:VALUE, kept with the job; repeatable.")
    ] = None,
    previews: Previews = None,
    json: AsJson = False,
) -> None:
    """Run a workflow and save what it makes; Ctrl-C cancels the job.

    Exit codes: 0 done, 1 the job failed, 2 wrong input, 3 no connection or no permission,
    4 timed out, 130 interrupted.
    """
    from comfysnap_client.cli import run

    pairs = list(inputs or ())
    if "=" in workflow:
        pairs.insert(0, workflow)
        workflow = ""
    options = run.InferOptions(
        workflow=workflow, pairs=pairs, out=out, timeout=timeout, wait=wait,
        labels=label or [], previews=previews, json=json,
    )  # fmt: skip
    _run(url, timeout, lambda client: run.infer(client, options))


def status(job_id: JobId, url: Url = DEFAULT_URL, json: AsJson = False) -> None:
    """Tell how a job is doing."""
    from comfysnap_client.cli import run

    _run(url, REQUEST_S, lambda client: run.status(client, job_id, json=json))


def result(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    out: Out = Path(),
    timeout: Timeout = 600.0,
    previews: Previews = None,
    json: AsJson = False,
) -> None:
    """Wait for a job and save what it made; Ctrl-C stops waiting, the job goes on."""
    from comfysnap_client.cli import run

    shown = run.Shown(out=out, previews=previews, json=json)
    _run(url, timeout, lambda client: run.result(client, job_id, shown, timeout))


def cancel(job_id: JobId, url: Url = DEFAULT_URL, json: AsJson = False) -> None:
    """Ask for a job to stop."""
    from comfysnap_client.cli import run

    _run(url, REQUEST_S, lambda client: run.cancel(client, job_id, json=json))


def jobs(
    url: Url = DEFAULT_URL,
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY:VALUE; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: AsJson = False,
) -> None:
    """List your jobs, newest first."""
    from comfysnap_client.cli import run

    wanted = run.JobFilter(status=status, workflow=workflow, labels=label or [], limit=limit)
    _run(url, REQUEST_S, lambda client: run.jobs(client, wanted, json=json))


REQUEST_S = 60.0
"""Seconds for a command that asks one thing."""


def _run(url: str, timeout: float, work: "Callable[[Client], Awaitable[None]]") -> None:
    """Run a command against the server; its errors become a few lines and an exit code."""
    from comfysnap_client.cli import run

    raise typer.Exit(run.run(url, timeout, work))
