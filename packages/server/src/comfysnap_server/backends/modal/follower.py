"""Follows one job for all who wait for it in this process: its result and its progress at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from comfysnap_schema.wire import Preview
from comfysnap_server.backends.modal.platform import CallEnd, Platform
from comfysnap_server.backends.modal.records import FeedEntry, previews_of
from comfysnap_server.backends.modal.states import JobState, Policy, seconds_until_due

log = logging.getLogger(__name__)

Refresh = Callable[[JobState, CallEnd | None], Awaitable[JobState]]
"""Reads the records again and does what they, or the end of the call, ask for."""

_AGAIN_S = 5.0
"""Before another try to read what could not be read, or to ask for the call that goes on."""
CALL_WAIT_S = 50.0
"""How long one question for the call's result may be held."""


class JobFollower:
    """Runs while any request waits; ``snapshot`` is the newest state."""

    def __init__(
        self, platform: Platform, policy: Policy, refresh: Refresh, snapshot: JobState
    ) -> None:
        self._platform = platform
        self._policy = policy
        self._refresh = refresh
        self.snapshot = snapshot
        self.preview: Preview | None = None
        self.previews = 0
        self.users = 0
        self._taking_previews = False
        self._changed = asyncio.Condition()
        self._poked = asyncio.Event()
        self._end: CallEnd | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to follow."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(part()) for part in (self._records, self._feed, self._call)]

    async def stop(self) -> None:
        """End following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def poke(self) -> None:
        """Something was written: look at the records now."""
        self._poked.set()

    async def until(self, ready: Callable[["JobFollower"], bool]) -> None:
        """Wait for a state that satisfies ``ready``."""
        async with self._changed:
            await self._changed.wait_for(lambda: ready(self))

    async def _show(self, snapshot: JobState) -> None:
        async with self._changed:
            self.snapshot = snapshot
            self._changed.notify_all()

    async def _records(self) -> None:
        """Look at the records when poked, and now and then."""
        while not self.snapshot.final:
            with suppress(TimeoutError):
                due = seconds_until_due(self.snapshot, self._policy, self._platform.now())
                async with asyncio.timeout(due):
                    await self._poked.wait()
            self._poked.clear()
            try:
                fresh = await self._refresh(self.snapshot, self._end)
            except Exception:
                log.exception("job %s could not be read", self.snapshot.request.job_id)
                continue
            await self._show(self._with_what_came(fresh))

    def _with_what_came(self, fresh: JobState) -> JobState:
        """The feed went on while the records were read."""
        known = self.snapshot
        if fresh.final:
            return fresh
        fresh = fresh.with_feed_of(known)
        claims = max(fresh.claims, known.claims, key=len)
        return replace(fresh, claims=claims, cancel=fresh.cancel or known.cancel)

    def take_previews(self) -> None:
        """Take in previews too, if the job sends any."""
        request = self.snapshot.request
        if request.previews and not self._taking_previews:
            self._taking_previews = True
            follow = self._follow(previews_of(request.job_id))
            self._tasks.append(asyncio.get_running_loop().create_task(follow))

    async def _feed(self) -> None:
        """Take in progress as it comes."""
        await self._follow(self.snapshot.request.job_id)

    async def _follow(self, partition: str) -> None:
        seen = (0, -1)
        while not self.snapshot.final:
            try:
                # each reading begins with the first entry
                async for text in self._platform.feed.read(partition, wait=CALL_WAIT_S):
                    entry = FeedEntry.model_validate_json(text)
                    if entry.cancel is not None and self.snapshot.cancel is None:
                        await self._show(replace(self.snapshot, cancel=entry.cancel))
                        self.poke()
                    if (entry.attempt, entry.number) > seen:
                        seen = (entry.attempt, entry.number)
                        await self._take(entry)
            except Exception:
                log.exception("%s could not be read", partition)
                await asyncio.sleep(min(self._policy.refresh, _AGAIN_S))

    async def _take(self, entry: FeedEntry) -> None:
        if entry.claim is not None and entry.attempt == len(self.snapshot.claims) + 1:
            claims = (*self.snapshot.claims, entry.claim)
            await self._show(replace(self.snapshot, claims=claims))
        elif entry.ended or entry.attempt > len(self.snapshot.claims):
            self.poke()
        if entry.preview is not None:
            self.preview = entry.preview
            self.previews += 1
        if entry.progress is not None:
            await self._show(self.snapshot.with_entry(entry))
        else:
            await self._show(self.snapshot)

    async def _call(self) -> None:
        """Wait for the end of the call."""
        while not self.snapshot.final:
            call_id = self.snapshot.running_call
            try:
                if call_id is None:
                    await asyncio.sleep(min(self._policy.refresh, _AGAIN_S))
                    continue
                end = await self._platform.calls.end(call_id, wait=CALL_WAIT_S)
            except Exception:
                log.exception("call %s could not be asked for", call_id)
                await asyncio.sleep(min(self._policy.refresh, _AGAIN_S))
                continue
            if end is not None:
                self._end = end
                self.poke()
                await asyncio.sleep(min(self._policy.refresh, _AGAIN_S))
