"""A point in time by which a call must be over."""

import math
import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Deadline:
    """Wall-clock end of a call, however slow its parts; ``at`` None is never."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline ``seconds`` from now; ``math.inf`` is never.

        Raises:
            ValueError: ``seconds`` is negative or no number.
        """
        if not seconds >= 0:
            raise ValueError("a timeout is a number of seconds, or math.inf for no limit")
        return cls() if math.isinf(seconds) else cls(time.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Seconds left, at least 0, or None for no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def remaining_or_inf(self) -> float:
        """Seconds left, as a ``timeout`` argument."""
        return math.inf if self.at is None else max(0.0, self.at - time.monotonic())

    def allows(self, pause: float) -> bool:
        """Whether ``pause`` seconds from now is still in time."""
        left = self.remaining()
        return left is None or pause < left


NEVER = Deadline()
"""No limit."""
