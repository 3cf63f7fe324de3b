"""Requests a minute, by token buckets: no clock, no I/O."""

import math
from dataclasses import dataclass, field
from typing import Final

from comfysnap_schema.wire import BudgetName

RATE: Final = "RateLimit"
RATE_POLICY: Final = "RateLimit-Policy"

_PERIOD_S: Final = 60.0
_AT_ONCE_S: Final = 5.0
_LEAST_AT_ONCE: Final = 20
"""Enough for a page with its pictures, or for a client that starts several jobs."""
_MAX_IDLE: Final = 10_000
"""Buckets; above it those that are full again are forgotten."""


@dataclass
class TokenBucket:
    """Lets ``per_minute`` requests pass in a minute: after a pause those of 5 s at once, at least
    20, then one after the other. All of a minute at once would hold up other owners.

    Args:
        per_minute: Requests.
        now: When it is made, full; seconds of any clock.
    """

    per_minute: int
    now: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = float(self.at_once)

    @property
    def at_once(self) -> int:
        """How many may come at once."""
        share = int(self.per_minute * _AT_ONCE_S / _PERIOD_S)
        return min(self.per_minute, max(_LEAST_AT_ONCE, share))

    def take(self, now: float) -> float:
        """Take a token: 0, or the seconds until there is one."""
        self._fill(now)
        if self.tokens < 1:
            return (1 - self.tokens) * _PERIOD_S / self.per_minute
        self.tokens -= 1
        return 0.0

    def used(self, now: float) -> int:
        """Tokens that are taken and not yet back."""
        self._fill(now)
        return self.at_once - int(self.tokens)

    def reset(self, now: float) -> float:
        """Seconds until all tokens are back."""
        self._fill(now)
        return (self.at_once - self.tokens) * _PERIOD_S / self.per_minute

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """What a client may read of it, by draft-ietf-httpapi-ratelimit-headers."""
        self._fill(now)
        name, wait = BudgetName.REQUESTS_PER_MINUTE.value, math.ceil(self.reset(now))
        return [
            (RATE_POLICY.lower().encode(), f'"{name}";q={self.per_minute};w=60'.encode()),
            (RATE.lower().encode(), f'"{name}";r={int(self.tokens)};t={wait}'.encode()),
        ]

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self.now)
        self.tokens = min(self.at_once, self.tokens + passed * self.per_minute / _PERIOD_S)
        self.now = max(self.now, now)


class RateLimiter:
    """A bucket for each key; one whose limit changed begins anew."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        """How many buckets there are."""
        return len(self._buckets)

    def bucket(self, key: str, per_minute: int, now: float) -> TokenBucket:
        """The bucket of a key."""
        bucket = self._buckets.get(key)
        if bucket is None or bucket.per_minute != per_minute:
            if len(self._buckets) >= _MAX_IDLE:
                self._buckets = {k: b for k, b in self._buckets.items() if b.used(now)}
            bucket = self._buckets[key] = TokenBucket(per_minute, now)
        return bucket
