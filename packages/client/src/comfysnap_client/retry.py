"""When a request is sent again, and after how long; pure, it neither sleeps nor sends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

RETRIED_STATUSES = frozenset({408, 425, 429})
"""Besides every 5xx: the server asks for another try."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a request is retried, within the call's own ``timeout``.

    Every request of the client may be retried: reads by nature, submits because all attempts
    carry one idempotency key, uploads because files are named by their content.

    Attributes:
        attempts: Most requests for one call, the first included; at least 1.
        budget: Seconds after the first attempt's start in which a further one may start.
        initial: Seconds before the second attempt.
        factor: Growth of the pause from attempt to attempt.
        maximum: Longest pause in seconds, unless the server asks for more.
        jitter: Share of a pause, 0 to 1, that chance may take off it.
        longest_retry_after: A ``Retry-After`` above this many seconds ends the call instead.
    """

    attempts: int = 10
    budget: float = 120.0
    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 8.0
    jitter: float = 0.25
    longest_retry_after: float = 120.0

    def retries(self, status: int) -> bool:
        """Whether an answer with this HTTP status is worth another attempt."""
        return status in RETRIED_STATUSES or status >= 500

    def pause(
        self, attempt: int, elapsed: float, *, retry_after: float | None = None, draw: float
    ) -> float | None:
        """Seconds to wait after a failed attempt, or None to give up.

        Args:
            attempt: Number of the attempt that failed, from 1.
            elapsed: Seconds since the first attempt started.
            retry_after: The server's hint in seconds; never undercut.
            draw: A random number from 0 to 1.
        """
        if attempt >= self.attempts:
            return None
        # The exponent is bounded: a policy of many attempts must not overflow a float.
        pause = min(self.initial * self.factor ** min(attempt - 1, 64), self.maximum)
        if retry_after is not None:
            if retry_after > self.longest_retry_after:
                return None
            pause = retry_after + min(pause, retry_after) * self.jitter * draw
        else:
            pause *= 1 - self.jitter * draw
        return pause if elapsed + pause <= self.budget else None


NO_RETRY = RetryPolicy(attempts=1)
"""One attempt."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for: a number, or a date measured against ``Date``."""
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
    from email.utils import parsedate_to_datetime  # dates are rare, the import is not cheap

    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
