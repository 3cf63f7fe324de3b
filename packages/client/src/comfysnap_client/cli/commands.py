"""The commands infer, status, result, cancel, jobs and limits."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_schema.cli.options import CALL
from comfysnap_schema.wire import JobStatus

if TYPE_CHECKING:
    from comfysnap_client.client import Client

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="COMFYSNAP_URL", show_default=False,
        help="URL of the server. Keys are read from COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET.",
    ),
]  # fmt: skip
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the files, created if needed.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, help="Seconds for the whole command.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobId = Annotated[str, typer.Argument(help="ID of the job: job_...", show_default=False)]

DEFAULT_URL = "http://127.0.0.1:8000"


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (infer, status, result, cancel, jobs, limits):
        app.command(rich_help_panel=CALL)(command)


def infer(
    workflow: Annotated[
        str, typer.Argument(help="Name. Default: that of the server.", show_default=False)
    ] = "",
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            show_default=False,
            help="Inputs. KEY=@FILE uploads a file, KEY=@- reads stdin; repeat KEY for a list.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    out: Out = Path(),
    timeout: Timeout = 600.0,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait, or print the job's ID at once."),
    ] = True,
    label: Annotated[
        list[str] | None, typer.Option(help="KEY:VALUE, stored with the job. Repeatable.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Run a workflow and save its outputs. Ctrl-C cancels the job.

    Example: comfysnap infer flux prompt="a fox" --out pictures

    Exit codes: 0 success, 1 job failed, 2 invalid input, 3 unreachable or denied,
    4 timed out, 130 interrupted.
    """
    from comfysnap_client.cli import run

    pairs = list(inputs or ())
    if "=" in workflow:
        pairs.insert(0, workflow)
        workflow = ""
    options = run.InferOptions(
        workflow=workflow, pairs=pairs, out=out, timeout=timeout, wait=wait,
        labels=label or [], json=json,
    )  # fmt: skip
    _run(url, timeout, lambda client: run.infer(client, options), cancels=True)


def status(job_id: JobId, url: Url = DEFAULT_URL, json: AsJson = False) -> None:
    """Show the state of a job.

    Example: comfysnap status job_...
    """
    from comfysnap_client.cli import run

    _run(url, REQUEST_S, lambda client: run.status(client, job_id, json=json))


def result(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    out: Out = Path(),
    timeout: Timeout = 600.0,
    json: AsJson = False,
) -> None:
    """Wait for a job and save its outputs. Ctrl-C stops waiting, the job continues.

    Example: comfysnap result job_... --out pictures
    """
    from comfysnap_client.cli import run

    options = run.OutputOptions(out=out, json=json)
    _run(url, timeout, lambda client: run.result(client, job_id, options, timeout))


def cancel(job_id: JobId, url: Url = DEFAULT_URL, json: AsJson = False) -> None:
    """Request cancellation of a job.

    Example: comfysnap cancel job_...
    """
    from comfysnap_client.cli import run

    _run(url, REQUEST_S, lambda client: run.cancel(client, job_id, json=json))


def jobs(
    url: Url = DEFAULT_URL,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only jobs of this workflow.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY:VALUE. Repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number to list.")] = 20,
    json: AsJson = False,
) -> None:
    """List your jobs, newest first.

    Example: comfysnap jobs --status failed --limit 5
    """
    from comfysnap_client.cli import run

    filters = run.JobFilter(status=status, workflow=workflow, labels=label or [], limit=limit)
    _run(url, REQUEST_S, lambda client: run.jobs(client, filters, json=json))


def limits(url: Url = DEFAULT_URL, json: AsJson = False) -> None:
    """Show what your key may do, and how much of its budgets is used.

    Example: comfysnap limits
    """
    from comfysnap_client.cli import run

    _run(url, REQUEST_S, lambda client: run.limits(client, json=json))


REQUEST_S = 60.0
"""Timeout in seconds of a command that sends a single request."""


def _run(
    url: str,
    timeout: float,
    work: "Callable[[Client], Awaitable[None]]",
    *,
    cancels: bool = False,
) -> None:
    """Run a command, and exit with its code."""
    from comfysnap_client.cli import run

    raise typer.Exit(run.run(url, timeout, work, cancels=cancels))
