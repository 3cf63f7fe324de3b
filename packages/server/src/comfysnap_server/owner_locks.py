"""One after the other for each owner, so that what is slow holds up its own owner first."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class OwnerLocks:
    """Owners do one thing at a time; those of different owners do not wait for each other."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    def __len__(self) -> int:
        """How many owners hold or await theirs."""
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, owner: str) -> AsyncGenerator[None]:
        """Hold the lock of an owner, in the order of the calls."""
        lock = self._locks.setdefault(owner, asyncio.Lock())
        self._users[owner] = self._users.get(owner, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[owner] -= 1
            if not self._users[owner]:
                del self._users[owner], self._locks[owner]
