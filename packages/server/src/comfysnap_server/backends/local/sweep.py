"""Deletes files and jobs that are past their retention."""

import asyncio
import logging
import time
from typing import Final

from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.reader import Reader
from comfysnap_server.backends.local.uploads import Uploads
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import OutputStore

logger = logging.getLogger(__name__)

_BATCH: Final = 200


class Sweeper:
    """Sweeps at once, then every ``interval`` seconds."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        folders: JobFolders,
        uploads: Uploads,
        outputs: OutputStore | None,
        *,
        keep_outputs: float,
        keep_inputs: float,
        keep_jobs: float,
        interval: float,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._folders = folders
        self._uploads = uploads
        self._outputs = outputs
        self._keep_outputs = min(keep_outputs, keep_jobs)
        self._keep_inputs = keep_inputs
        self._keep_jobs = keep_jobs
        self._interval = interval

    async def run_forever(self) -> None:
        """Sweep until cancelled; a sweep that fails is logged and tried again later."""
        while True:
            try:
                await self.sweep()
            except (BackendError, OSError):
                logger.exception("files or jobs past their retention could not be deleted")
            await asyncio.sleep(self._interval)

    async def sweep(self) -> None:
        """Delete what is past its retention. Outputs are marked as gone before they are, so that a
        job never lists a file that half exists."""
        await self._writer.run(store.forget_keys)
        while job_ids := await self._reader.run(
            lambda c: store.finished_before(c, time.time() - self._keep_outputs, _BATCH)
        ):
            if self._outputs is not None:  # before they are forgotten here
                await self._outputs.delete(job_ids)
            await self._writer.run(lambda c, ids=job_ids: store.mark_outputs_gone(c, ids))
            await asyncio.to_thread(self._delete, job_ids)
        forgotten = time.time() - self._keep_jobs
        while await self._writer.run(lambda c: store.forget_jobs(c, forgotten, _BATCH)):
            pass
        while await self._writer.run(store.shrink, durable=False):
            pass
        needed = await self._reader.run(store.needed_files)
        await self._uploads.sweep(older_than=self._keep_inputs, keep=needed)

    def _delete(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            self._folders.delete(job_id)
