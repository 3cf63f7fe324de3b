"""Carries progress from the engine's thread to the job's feed, a few times a second."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pydantic import JsonValue
from pydantic_core import to_json

from comfysnap_schema.wire import OutputFile, Progress
from comfysnap_server.backends.modal.platform import Feed
from comfysnap_server.backends.modal.records import Claim, FeedEntry, previews_of
from comfysnap_server.engine.outputs import JobOutput
from comfysnap_server.engine.protocol import PreviewFrame
from comfysnap_server.jobs import EarlyOutput

log = logging.getLogger(__name__)

SHORTEST_S: Final = 0.15
MODERATE_S: Final = 3.5
SLOW_SHARE: Final = 0.01
"""Seconds between entries: the time so far, from 0.15 to 3.5, and later a hundredth of it. Each
costs a round trip, and a look at the job reads them all (10 s make 7, an hour about 450)."""
PROGRESS_KEPT_S: Final = 2 * 3600
"""From each entry on; a node may be silent for long."""
ENDED_KEPT_S: Final = 300
"""From the end of a job on, from a request to cancel it, and from each preview. A queue has at most
100,000 partitions."""
MAX_PREVIEW_BYTES: Final = 256 * 1024
MAX_OUTPUTS_BYTES: Final = 64 * 1024
"""Of all outputs in one entry; texts and JSON beyond it come with the end of the job."""

Keep = Callable[[Sequence[OutputFile]], Awaitable[None]]
"""Makes output files readable for the gateway."""


class FeedReporter:
    """One attempt's entries; only the newest of what came within an interval is sent. Outputs go
    with an entry, once ``keep`` has made their files readable: one call more for all that came,
    and at most one in ``MODERATE_S``."""

    def __init__(
        self,
        feed: Feed,
        job_id: str,
        attempt: int,
        claim: Claim | None = None,
        *,
        keep: Keep | None = None,
    ) -> None:
        self._keep = keep
        self._claim = claim
        self._feed = feed
        self._job_id = job_id
        self._attempt = attempt
        self._started = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._progress: Progress | None = None
        self._preview: PreviewFrame | None = None
        self._complete: dict[str, JobOutput] = {}
        self.told: dict[str, JsonValue] = {}
        """The outputs that were sent."""
        self._news = asyncio.Event()
        self._kept_at = float("-inf")
        self._number = 0
        self.last = Progress()
        """The newest that was reported."""
        self._task = self._loop.create_task(self._send())

    def report(self, item: Progress | PreviewFrame | EarlyOutput) -> None:
        """Take news from any thread; returns at once."""
        self._loop.call_soon_threadsafe(self._take, item)

    def _take(self, item: Progress | PreviewFrame | EarlyOutput) -> None:
        if isinstance(item, EarlyOutput):
            self._complete[item.name] = item.output
        elif isinstance(item, Progress):
            self._progress = self.last = item
        elif len(item.data) <= MAX_PREVIEW_BYTES:
            self._preview = item
        self._news.set()

    def skip(self, numbers: int) -> None:
        """Go on after the entries of another writer, who used some of so many numbers."""
        self._number += numbers

    async def close(self, *, ended: bool) -> None:
        """Stop; with ``ended``, wake who follows the feed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if ended:
            await self._append(ended=True)

    async def _send(self) -> None:
        await self._append(claim=self._claim)
        while True:
            await asyncio.sleep(self._pause())
            await self._news.wait()
            self._news.clear()
            progress, preview = self._progress, self._preview
            self._progress = self._preview = None
            outputs = await self._new_outputs()
            if progress is not None or outputs is not None:
                await self._append(progress or self.last, outputs=outputs)
            if preview is not None:
                await self._append(frame=preview)

    async def _new_outputs(self) -> dict[str, JsonValue] | None:
        """All outputs that can be told, if there are new ones and their time has come."""
        if self._complete and time.monotonic() - self._kept_at < MODERATE_S:
            self._news.set()  # to look again after the next pause
            return None
        complete, self._complete = self._complete, {}
        values = {name: output.on_wire() for name, output in complete.items()}
        told = {**self.told, **values}
        if not complete or len(to_json(told)) > MAX_OUTPUTS_BYTES:
            return None
        files = [file for output in complete.values() for file in output.files]
        try:
            if files and self._keep is not None:
                self._kept_at = time.monotonic()
                await self._keep(files)
        except Exception:
            log.exception("outputs of %s come with its end", self._job_id)
            return None
        self.told = told
        return told

    def _pause(self) -> float:
        passed = time.monotonic() - self._started
        return max(SHORTEST_S, min(passed, MODERATE_S), SLOW_SHARE * passed)

    async def _append(
        self,
        progress: Progress | None = None,
        frame: PreviewFrame | None = None,
        *,
        ended: bool = False,
        claim: Claim | None = None,
        outputs: dict[str, JsonValue] | None = None,
    ) -> None:
        self._number += 1
        entry = FeedEntry(
            attempt=self._attempt,
            number=self._number,
            progress=progress,
            preview=frame and frame.on_wire(),
            outputs=outputs,
            ended=ended,
            claim=claim,
        )
        try:
            partition = self._job_id if frame is None else previews_of(self._job_id)
            text = entry.model_dump_json(exclude_defaults=True)
            keep = ENDED_KEPT_S if ended or frame is not None else PROGRESS_KEPT_S
            await self._feed.append(partition, text, keep=keep)
        except Exception:
            log.exception("progress of %s could not be sent", self._job_id)
