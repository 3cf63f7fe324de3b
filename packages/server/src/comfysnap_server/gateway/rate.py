"""Requests a minute, by token buckets: no clock, no I/O."""

from dataclasses import dataclass, field
from typing import Final

_PERIOD_S: Final = 60.0
_MAX_IDLE: Final = 10_000
"""Buckets; above it those that are full again are forgotten."""


@dataclass
class TokenBucket:
    """Lets ``per_minute`` requests pass in a minute, and as many at once after a pause.

    Args:
        per_minute: Requests.
        now: When it is made, full; seconds of any clock.
    """

    per_minute: int
    now: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = float(self.per_minute)

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
        return self.per_minute - int(self.tokens)

    def reset(self, now: float) -> float:
        """Seconds until all tokens are back."""
        self._fill(now)
        return (self.per_minute - self.tokens) * _PERIOD_S / self.per_minute

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self.now)
        self.tokens = min(self.per_minute, self.tokens + passed * self.per_minute / _PERIOD_S)
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
