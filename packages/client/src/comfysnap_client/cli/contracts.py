"""The contracts of a server, for ``comfysnap generate --url``."""

from typing import TYPE_CHECKING, Final

import typer

from comfysnap_schema.wire import WorkflowDetail
from comfysnap_schema.workflow import check_workflow_name

if TYPE_CHECKING:
    from comfysnap_client.blocking import Client

MAX_WORKFLOWS: Final = 1000
"""A server that lists more is refused."""
_TIMEOUT_S: Final = 120.0
"""For each request: a server that is asleep has to start first."""


def fetch_contracts(url: str) -> list[WorkflowDetail]:
    """Read the contracts of all workflows of a server, with the keys of the environment.

    Args:
        url: URL of the server.

    Raises:
        typer.Exit: With the exit code, after the error was printed.
        WorkflowError: ``invalid_name``, a workflow name that is not safe as a file name.
    """
    from comfysnap_client.blocking import Client
    from comfysnap_client.cli import run
    from comfysnap_client.errors import ComfysnapError, NotFound, UnexpectedResponse

    try:
        with Client.from_env(base_url=url, timeout=_TIMEOUT_S, retry=run.RETRY) as client:
            found = _contracts(client)
    except (NotFound, UnexpectedResponse) as error:
        message = f"{url} is not a comfysnap server: {error.message}"
        code = run.report(UnexpectedResponse(message, status=error.status))
    except ComfysnapError as error:
        code = run.report(error)
    except ValueError as error:
        code = run.print_error(run.USAGE, str(error))
    else:
        if found:
            return found
        code = run.print_error(run.FAILED, f"{url} serves no workflows: nothing to generate")
    raise typer.Exit(code)


def _contracts(client: "Client") -> list[WorkflowDetail]:
    from comfysnap_client.errors import UnexpectedResponse

    names = [workflow.name for workflow in client.workflows()]
    if len(names) > MAX_WORKFLOWS:
        raise UnexpectedResponse(f"it lists {len(names)} workflows")
    details: list[WorkflowDetail] = []
    for name in names:
        check_workflow_name(name)
        detail = client.workflow(name)
        if detail.name != name:
            raise UnexpectedResponse(f"it returned another workflow than {name!r}")
        details.append(detail)
    return details
