"""How many things the gateway holds at once: shares of the files that the system lets it open."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

log = logging.getLogger("comfysnap.gateway")

MAX_DESCRIPTORS: Final = 65_536
"""More is not asked for: some programs that a job starts go through all of them."""
_UNLIMITED: Final = 4096
"""Where the system has no such limit."""
_LOG_PERIOD_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Upper limits of everything that stays open for as long as a stranger likes.

    Waits, uploads, downloads and bodies together stay below ``connections``, so that there is
    always room for a request that is answered at once.
    """

    connections: int
    waits: int
    """Long polls, ``infer_sync`` and event streams."""
    uploads: int
    downloads: int
    bodies: int
    """JSON bodies that are being received."""
    backlog: int
    """Connections that the system accepts before the gateway sees them."""

    @classmethod
    def of(cls, descriptors: int) -> Self:
        """Share out ``descriptors``: a connection takes one, and a file in transfer another."""
        reserve = max(16, min(descriptors // 5, 4096))
        connections = max(8, (descriptors - reserve) * 4 // 5)
        share = max(1, connections // 8)
        return cls(
            connections=connections,
            waits=max(1, connections // 2),
            uploads=share,
            downloads=share,
            bodies=share,
            backlog=max(8, reserve * 3 // 4),
        )

    @classmethod
    def of_process(cls) -> Self:
        """What this process may open now; see ``raise_descriptor_limit``."""
        if sys.platform == "win32":
            return cls.of(_UNLIMITED)
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = soft == resource.RLIM_INFINITY
        return cls.of(MAX_DESCRIPTORS if unlimited else min(soft, MAX_DESCRIPTORS))


def raise_descriptor_limit() -> None:
    """Let this process open as many files as the system's hard limit allows it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS names a hard limit that it does not grant
            log.info("the limit of %d open files stays: %s", soft, error)


class FullLog:
    """Logs what strangers can cause any number of times, such as that something is full, at most
    once a minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def warn(self, text: str, *values: object) -> None:
        """Log ``text`` unless the last line is less than a minute old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOG_PERIOD_S
            log.warning(text, *values)


class Places:
    """A limited number of places, of which one owner has a limited number too.

    Args:
        what: What takes a place, in the plural: ``downloads``.
        limit: Places altogether.
        per_owner: Places of one owner.
    """

    def __init__(self, what: str, limit: int, per_owner: int) -> None:
        self._what = what
        self._limit = limit
        self._per_owner = per_owner
        self._taken: Counter[str] = Counter()
        self._log = FullLog()

    @property
    def full(self) -> bool:
        """Whether no owner gets a place."""
        return self._taken.total() >= self._limit

    def full_for(self, owner: str) -> bool:
        """Whether this owner gets no place."""
        return self.full or self._taken[owner] >= self._per_owner

    @contextmanager
    def take(self, owner: str, *, over_limit: bool = False) -> Generator[None]:
        """Hold a place.

        Args:
            owner: Whose place it is.
            over_limit: Take a place even if none is free, because one is about to be freed.

        Raises:
            ProblemError: ``rate_limited``, there is none.
        """
        if not over_limit and self.full_for(owner):
            raise self._refusal(owner)
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]

    def _refusal(self, owner: str) -> ProblemError:
        held = self._taken[owner]
        self._log.warn(
            "%s are refused: %d are open, %d of them of owner %r",
            self._what, self._taken.total(), held, owner,
        )  # fmt: skip
        return ProblemError(
            ErrorCode.RATE_LIMITED,
            f"too many {self._what} at once ({held} of yours); try again later",
            retry_after=1,
        )
