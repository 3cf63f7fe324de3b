"""RPCs that fail or are slow by a plan, and a count of all RPCs."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from grpclib import GRPCError, Status

CLIENT = "client"
"""Caller of RPCs that no container made: a command, or a test."""


@dataclass(eq=False)
class Rule:
    """What happens to RPCs that match."""

    rpc: str
    """Name, or a pattern with ``*``."""
    caller: str
    """Name of the calling function, a pattern, or ``client``."""
    fail: Status | None
    delay: float
    every: int
    times: int | None
    until: float | None
    after: bool
    matched: int = 0
    applied: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the rule applied."""

    def applies(self, caller: str, rpc: str) -> bool:
        """Whether this RPC is one of those; counts it."""
        if not fnmatchcase(rpc, self.rpc) or not fnmatchcase(caller, self.caller):
            return False
        if self.until is not None and time.monotonic() > self.until:
            return False
        if self.times is not None and self.applied >= self.times:
            return False
        self.matched += 1
        if self.matched % self.every:
            return False
        self.applied += 1
        self.hit.set()
        return True


class Faults:
    """The plan, and the count."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self.seen: Counter[tuple[str, str]] = Counter()
        """Caller and RPC to the number of requests."""

    def plan(
        self,
        rpc: str,
        *,
        caller: str = "*",
        fail: Status | None = None,
        delay: float = 0,
        every: int = 1,
        times: int | None = None,
        seconds: float | None = None,
        after: bool = False,
    ) -> Rule:
        """Make matching RPCs fail or late, from now on.

        Args:
            rpc: Name of the RPC, or a pattern with ``*``.
            caller: Name of the calling function, a pattern, or ``client``.
            fail: Status that the caller gets. None: the RPC works.
            delay: Seconds before it is answered.
            every: Apply only to every nth matching RPC.
            times: Maximum number of RPCs. None: no limit.
            seconds: Length of the fault from now. None: until ``clear``.
            after: Fail after the work was done, as when only the response is lost.
        """
        until = None if seconds is None else time.monotonic() + seconds
        rule = Rule(rpc, caller, fail, delay, every, times, until, after)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """End all faults."""
        self._rules.clear()

    async def before(self, caller: str, rpc: str) -> Status | None:
        """Count an RPC and do what the plan says.

        Returns:
            Status to fail with once the work is done. None: it succeeds.

        Raises:
            GRPCError: It fails.
        """
        self.seen[caller, rpc] += 1
        later = None
        for rule in list(self._rules):
            if not rule.applies(caller, rpc):
                continue
            await asyncio.sleep(rule.delay)  # the slowness that the test asked for
            if rule.fail is not None and rule.after:
                later = rule.fail
            elif rule.fail is not None:
                raise GRPCError(rule.fail, f"{rpc} fails by the plan of the test")
        return later
