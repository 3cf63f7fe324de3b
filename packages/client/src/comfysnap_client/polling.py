"""How a job is waited for; pure, it neither sleeps nor sends."""

from dataclasses import dataclass

from comfysnap_schema.wire import MAX_WAIT_S

HELD_S = 1.0
"""An answer that took this many seconds was held by the server; a sooner one was not."""


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """Long-poll first; pauses only against a server that does not hold requests, or after a loss.

    Attributes:
        hold: Seconds that the server may hold a status request, at most 25; 0 polls plainly.
        initial: Seconds of the first pause.
        factor: Growth of the pause.
        maximum: Longest pause in seconds, unless the server's ``Retry-After`` asks for more.
        jitter: Share of a pause, 0 to 1, that chance adds or takes off.
    """

    hold: float = MAX_WAIT_S
    initial: float = 0.5
    factor: float = 1.5
    maximum: float = 5.0
    jitter: float = 0.25

    def pause(self, streak: int, *, hint: float | None = None, draw: float) -> float:
        """Seconds before the next poll.

        Args:
            streak: Polls in a row that were not held or failed, from 1.
            hint: The server's ``Retry-After`` in seconds; it wins, down to a tenth of ``initial``.
            draw: A random number from 0 to 1.
        """
        if hint is not None:
            return max(hint, self.initial / 10)
        pause = min(self.initial * self.factor ** min(streak - 1, 64), self.maximum)
        return pause * (1 + self.jitter * (2 * draw - 1))

    def hold_among(self, waits: int, slots: int) -> float:
        """Seconds to hold one poll when ``waits`` jobs share ``slots`` connections, so that each
        job's turn comes at least every ``maximum`` seconds."""
        if waits <= slots:
            return self.hold
        return min(self.hold, self.maximum * slots / waits)
