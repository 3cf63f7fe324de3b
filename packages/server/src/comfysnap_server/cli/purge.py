"""``comfysnap purge``: deletes old jobs and files of a server."""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_server.cli.keys import DataOption, parse_age

if TYPE_CHECKING:
    import httpx

    from comfysnap_schema.wire import PurgeReport
    from comfysnap_server.backends.protocol import PurgeRequest
    from comfysnap_server.jobs import OutputStore

_MAX_ANSWER: Final = 64 * 1024
_PATIENCE_S: Final = 150.0
"""For each request: a deployment may have to start first."""


def purge(
    owner: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    before: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="Only jobs that ended, and files last used, so long ago, as 7d."
        ),
    ] = "0s",
    jobs: Annotated[
        bool, typer.Option("--jobs", help="Only ended jobs, with their outputs.")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Only uploads that no unfinished job needs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="URL of a running server, instead of a data folder. Needs a key with the scope"
            " admin. Keys are read from COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET.",
        ),
    ] = None,
    data: DataOption = Path(".comfysnap"),
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete ended jobs, their outputs and unused uploads of a server.

    Without --url it must be stopped. Shows what would be deleted and asks. A running server keeps
    uploads that were used in the last ten minutes, and deletes by itself what is past keep_jobs,
    keep_outputs and keep_inputs of [serve.local]. Exits with 1 if the server refuses, uses the data
    folder, or the answer is no, with 3 if it cannot be reached.

    Example: comfysnap purge --owner alice --before 30d
    """
    from comfysnap_server.backends.local import DataFolderError, open_purge
    from comfysnap_server.backends.protocol import PurgeRequest
    from comfysnap_server.jobs import OutputStoreError

    both = jobs == files
    wanted = PurgeRequest(
        owner=owner, older_than=parse_age(before).total_seconds(),
        jobs=jobs or both, files=files or both,
    )  # fmt: skip
    try:
        if url is not None:
            with _open_remote(url, wanted) as work:
                _run(work, url, yes=yes, as_json=as_json)
            return
        with open_purge(data, wanted, outputs=_output_store(project)) as work:
            _run(work, str(data), yes=yes, as_json=as_json)
    except (DataFolderError, OutputStoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


class _Work(Protocol):
    def found(self) -> "PurgeReport":
        """What there is to delete."""
        ...

    def run(self) -> "PurgeReport":
        """Delete it; what was deleted."""
        ...


def _run(work: _Work, where: str, *, yes: bool, as_json: bool) -> None:
    if not yes:
        found = work.found()
        if found.jobs or found.files:
            print(_sentence("to delete", found, where), file=sys.stderr)
            if not typer.confirm("Delete this?", err=True):
                raise typer.Exit(1)
    deleted = work.run()
    if as_json:
        print(json.dumps(deleted.model_dump(exclude={"complete"})))
    elif not (deleted.jobs or deleted.files):
        print("nothing to delete")
    else:
        print(_sentence("deleted", deleted, where))


class _Remote:
    def __init__(self, http: "httpx.Client", wanted: "PurgeRequest") -> None:
        self._http = http
        self._wanted = wanted

    def found(self) -> "PurgeReport":
        return self._ask(dry_run=True)

    def run(self) -> "PurgeReport":
        total = self._ask()
        while not total.complete:
            more = self._ask()
            if not (more.complete or more.jobs):
                raise ValueError("the server deletes nothing more, and says that there is more")
            sums = {
                name: getattr(total, name) + getattr(more, name)
                for name in ("jobs", "job_bytes", "files", "file_bytes")
            }
            total = total.model_copy(update={**sums, "complete": more.complete})
        return total

    def _ask(self, *, dry_run: bool = False) -> "PurgeReport":
        from comfysnap_schema.wire import PURGE, PurgeReport

        wanted = self._wanted
        query = {
            "older_than": wanted.older_than, "jobs": wanted.jobs, "files": wanted.files,
            "dry_run": dry_run, **({} if wanted.owner is None else {"owner": wanted.owner}),
        }  # fmt: skip
        with self._http.stream("POST", PURGE[1:], params=query) as response:
            content = _start_of(response)
        if response.status_code != HTTPStatus.OK:
            raise ValueError(_reason(response, content))
        try:
            return PurgeReport.model_validate_json(content)
        except ValueError as error:
            raise ValueError(f"{self._http.base_url} is not a comfysnap server") from error


@contextmanager
def _open_remote(url: str, wanted: "PurgeRequest") -> Generator[_Remote]:
    import httpx

    from comfysnap_server.remote_server import checked_url, keys_of

    try:
        address, keys = checked_url(url), keys_of(os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    try:
        with httpx.Client(base_url=address, headers=keys, timeout=_PATIENCE_S) as http:
            yield _Remote(http, wanted)
    except httpx.HTTPError as error:
        print(f"error: {address} cannot be reached: {error}", file=sys.stderr)
        raise typer.Exit(3) from error


def _start_of(response: "httpx.Response") -> bytes:
    """The body, unless it is larger than any of a server of ours."""
    content = b""
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > _MAX_ANSWER:
            break
    return content


def _reason(response: "httpx.Response", content: bytes) -> str:
    from comfysnap_schema.wire import Problem

    try:
        problem = Problem.model_validate_json(content)
    except ValueError:
        return f"{response.url.host} answered {response.status_code}"
    return problem.detail or problem.title


def _output_store(given: Path | None) -> "OutputStore | None":
    """That of the project, which a data folder need not have."""
    from comfysnap_schema.wire import ProjectError
    from comfysnap_schema.workflow import locate_project, read_project
    from comfysnap_server.jobs import open_output_store
    from comfysnap_server.serve_settings import read_serve

    try:
        file = locate_project(given)
    except ProjectError:
        if given is not None:
            raise
        return None
    return open_output_store(read_serve(read_project(file)).outputs)


def _sentence(what: str, found: "PurgeReport", where: str) -> str:
    jobs, files = _count(found.jobs, "job"), _count(found.files, "upload")
    return (
        f"{what} in {where}: {jobs} ({_size(found.job_bytes)}), {files} ({_size(found.file_bytes)})"
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _size(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} bytes"
    units = ["KiB", "MiB", "GiB", "TiB"]
    while (count := count / 1024) >= 1024 and len(units) > 1:
        del units[0]
    return f"{count:.1f} {units[0]}"
