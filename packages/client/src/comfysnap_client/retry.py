"""Retries and deadlines: decisions, without sending."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from comfysnap_client.errors import DeadlineExceeded

RETRIED_STATUSES = frozenset({408, 425, 429})
"""Retried in addition to every 5xx."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a request is retried, within the call's ``timeout``.

    All requests of the client are safe to retry: reads by nature, submits because all attempts
    share one idempotency key, uploads because files are addressed by their content.

    Example::

        Client(url, retry=RetryPolicy(attempts=3, budget=10))

    Attributes:
        attempts: Maximum number of requests for one call, at least 1.
        budget: Seconds from the start of the first attempt within which others may start.
        first_contact: The same in seconds until a first connection to the server was made, so that
            a wrong URL or a stopped server fails soon. Only applies if below ``budget``.
        initial: Seconds of the first pause.
        factor: Factor by which each pause is longer than the one before.
        maximum: Maximum pause in seconds, unless the server asks for more.
        jitter: Fraction of a pause, 0 to 1, that is randomly subtracted.
        longest_retry_after: Maximum ``Retry-After`` in seconds; a longer one ends the call.
    """

    attempts: int = 10
    budget: float = 120.0
    first_contact: float = 15.0
    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 8.0
    jitter: float = 0.25
    longest_retry_after: float = 120.0

    def retries(self, status: int) -> bool:
        """Whether to retry after a response with this HTTP status.

        Example: ``RetryPolicy().retries(503)``
        """
        return status in RETRIED_STATUSES or status >= 500

    def pause(
        self,
        attempt: int,
        elapsed: float,
        *,
        retry_after: float | None = None,
        rand: float,
        reached: bool = True,
    ) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up.

        Args:
            attempt: Number of the failed attempt, from 1.
            elapsed: Seconds since the first attempt started.
            retry_after: The server's ``Retry-After`` in seconds; the pause is at least as long.
            rand: A random number from 0 to 1.
            reached: Whether a connection to the server was ever made.

        Example::

            seconds = RetryPolicy().pause(1, 0.0, rand=0)  # 0.5
        """
        if attempt >= self.attempts:
            return None
        # Bound the exponent: many attempts must not overflow a float.
        pause = min(self.initial * self.factor ** min(attempt - 1, 64), self.maximum)
        if retry_after is not None:
            if retry_after > self.longest_retry_after:
                return None
            pause = retry_after + min(pause, retry_after) * self.jitter * rand
        else:
            pause *= 1 - self.jitter * rand
        budget = self.budget if reached else min(self.budget, self.first_contact)
        return pause if elapsed + pause <= budget else None


NO_RETRY = RetryPolicy(attempts=1)
"""A single attempt."""


@dataclass(frozen=True)
class Deadline:
    """The time by which a call must end; ``at`` is monotonic time, None means never."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline ``seconds`` from now; ``math.inf`` means never.

        Raises:
            ValueError: ``seconds`` is negative or NaN.
        """
        if not seconds >= 0:
            raise ValueError("timeout must be 0 or more seconds, or math.inf for no limit")
        return cls() if math.isinf(seconds) else cls(time.monotonic() + seconds)

    def remaining(self) -> float | None:
        """The seconds left, at least 0, or None for no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def allows(self, pause: float) -> bool:
        """Whether a pause of this many seconds ends before the deadline."""
        left = self.remaining()
        return left is None or pause < left

    @asynccontextmanager
    async def enforced(self, exceeded: Callable[[], DeadlineExceeded]) -> AsyncGenerator[None]:
        """Cancel what is in progress when the deadline passes.

        Raises:
            DeadlineExceeded: From ``exceeded``, which may set its cause.
        """
        limit = asyncio.timeout(self.remaining())
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            made = exceeded()
            raise made from made.__cause__ or error


NEVER = Deadline()
"""No limit."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of ``Retry-After``, which may be a date relative to ``Date``, or None."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _http_date(value)
        if until is None:
            return None
        now = _http_date(headers.get("date", "")) or datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _http_date(value: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # slow to import, rarely needed

    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
