"""What adapters of other APIs do with jobs: cancel those without a caller, link and read files."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from comfysnap_schema.wire import JobRecord, LinkRequest, OutputFile, routes
from comfysnap_server.backends.protocol import Backend, OutputLink
from comfysnap_server.gateway.links import Links

log = logging.getLogger("comfysnap.gateway")

_LINK_TIMEOUT_S: Final = 60.0


class AdapterJobs:
    """The jobs of one backend, as adapters handle them.

    Args:
        backend: Where jobs run.
        links: Signs the URLs of files.
    """

    def __init__(self, backend: Backend, links: Links) -> None:
        self._backend = backend
        self._links = links
        self._cancels: set[asyncio.Task[JobRecord]] = set()

    def cancel_soon(self, owner: str, job_id: str) -> None:
        """Cancel a job that nobody can collect, whatever happens to the request."""
        task = asyncio.create_task(self._backend.cancel(owner, job_id))
        self._cancels.add(task)
        task.add_done_callback(self._cancelled)

    def _cancelled(self, task: asyncio.Task[JobRecord]) -> None:
        self._cancels.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a job without a caller was not cancelled: %s", task.exception())

    async def url(self, owner: str, job_id: str, file: OutputFile, base_url: str) -> str:
        """An absolute URL that needs no key, valid for an hour."""
        if file.url.startswith(("http://", "https://")):
            return file.url
        link = await self._links.sign(
            owner, LinkRequest(job_id=job_id, output=file.name, expires_in=routes.MAX_LINK_S)
        )
        return base_url.rstrip("/") + link.url

    async def read(self, owner: str, job_id: str, file: OutputFile) -> bytes:
        """The content of a file, from here or from the object store.

        Raises:
            BackendError: ``unknown_output`` or ``output_expired``.
            OSError: It cannot be read.
            httpx.HTTPError: The object store does not return it.
        """
        found = await self._backend.open_output(owner, job_id, file.name)
        if isinstance(found, OutputLink):
            return await _fetched(found)
        return await asyncio.to_thread(found.path.read_bytes)


def output_files(job: JobRecord, names: Iterable[str]) -> list[OutputFile]:
    """The files of these outputs of a job, which are files or lists of files."""
    found: list[OutputFile] = []
    for name in names:
        value = (job.outputs or {}).get(name)
        items = value if isinstance(value, list) else [value]
        found += [OutputFile.model_validate(item) for item in items if item is not None]
    return found


async def _fetched(link: OutputLink) -> bytes:
    import httpx  # not at the start of a gateway, most of which have no bucket

    async with httpx.AsyncClient(timeout=_LINK_TIMEOUT_S) as http:
        return (await http.get(link.url)).raise_for_status().content
