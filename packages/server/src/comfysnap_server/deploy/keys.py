"""API keys of a deployment: from a secret, and from a Dict, through which they change at once.

A secret reaches a container only when it starts, so warm gateways would accept a revoked key for as
long as they have requests. `comfysnap key` writes both; of two that differ, the newer one counts.
"""

import asyncio
import hashlib
import json
import logging
import time
from typing import Any, Final, Protocol

from pydantic import BaseModel

from comfysnap_schema.wire import ProjectError
from comfysnap_server.gateway import GatewaySettings, Keys

log = logging.getLogger(__name__)

KEYS_VARIABLE: Final = "COMFYSNAP_KEYS"
"""Variable in the keys secret: JSON object of owner to one or more hashes of API keys."""
ENTRY: Final = "keys"
"""Where the Dict has its one entry."""
REFRESH_S: Final = 30.0
"""After which a gateway reads the Dict again, at the next request; see ``DeployedKeys``."""
_PATIENCE_S: Final = 10.0

_REMEMBERED: Final = 100
"""Secrets that an entry knows to be older."""


class Entries(Protocol):
    """What is asked of the Dict."""

    async def get(self, key: str) -> str | None:
        """The value, or None."""
        ...

    async def put(self, key: str, value: str) -> None:
        """Write the key."""
        ...


class KeyTable(BaseModel, frozen=True):
    """The entry of the Dict."""

    secret: str
    """Hash of the secret's text that has these keys."""
    older: list[str] = []
    """Hashes of texts that it had before. A gateway that started with one of them knows that its
    keys are old; one that started with another text has newer keys than the entry."""
    keys: dict[str, str | list[str]]

    @classmethod
    def of_secret(cls, text: str) -> "KeyTable":
        """The keys of a secret.

        Raises:
            ValueError: The text is not a JSON object of owners and hashes, or has no key.
        """
        keys = GatewaySettings(keys=json.loads(text)).keys
        if not keys:
            raise ValueError("no keys")
        return cls(secret=hashlib.sha256(text.encode()).hexdigest(), keys=keys)

    def followed_by(self, newer: "KeyTable") -> "KeyTable":
        """The newer one, which knows this one to be older."""
        older = [digest for digest in [self.secret, *self.older] if digest != newer.secret]
        return newer.model_copy(update={"older": older[:_REMEMBERED]})

    def changed(self, owner: str, hashes: list[str]) -> "tuple[str, KeyTable]":
        """With these keys of an owner; the text for the secret, and the entry.

        Raises:
            ValueError: There would be no key at all.
        """
        keys = {**self.keys, owner: hashes}
        if not hashes:
            del keys[owner]
        text = json.dumps(keys)
        return text, self.followed_by(KeyTable.of_secret(text))


def read_secret(text: str | None, secret: str | None) -> KeyTable:
    """The keys of a container's environment.

    Args:
        text: Value of ``KEYS_VARIABLE``.
        secret: Name of the secret, for the message.

    Raises:
        ProjectError: ``missing_keys``, ``invalid_keys``.
    """
    where = {"file": "comfysnap.toml", "field": "deploy.keys_secret"}
    if not text:
        message = f"missing variable {KEYS_VARIABLE} in the secret {secret!r}"
        raise ProjectError("missing_keys", message, **where)
    try:
        return KeyTable.of_secret(text)
    except ValueError as error:
        message = f"{KEYS_VARIABLE} must be a JSON object of owner to the hash of a key"
        raise ProjectError("invalid_keys", message, **where) from error


class DeployedKeys:
    """An ASGI app in front of the gateway that keeps its keys new: no request is answered by keys
    that were read more than ``REFRESH_S`` and ``_PATIENCE_S`` seconds ago, unless Modal is away.

    Args:
        app: The gateway.
        keys: Its keys, which are replaced.
        entries: The Dict.
        start: The keys of this container's environment.
    """

    def __init__(self, app: Any, keys: Keys, entries: Entries, start: KeyTable) -> None:
        self._app = app
        self._keys = keys
        self._entries = entries
        self._start = start
        self._due = float("-inf")
        self._lock = asyncio.Lock()
        keys.replace(start.keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] == "http" and time.monotonic() > self._due:
            await self._refresh()
        await self._app(scope, receive, send)

    async def _refresh(self) -> None:
        async with self._lock:
            if time.monotonic() <= self._due:
                return
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    table = await self._newest()
            except Exception:
                log.exception("the keys could not be read; the ones from before stay")
            else:
                self._keys.replace(table.keys)
            self._due = time.monotonic() + REFRESH_S

    async def _newest(self) -> KeyTable:
        text = await self._entries.get(ENTRY)
        known = None if text is None else KeyTable.model_validate_json(text)
        if known is not None and self._start.secret in (known.secret, *known.older):
            return known
        table = known.followed_by(self._start) if known else self._start
        await self._entries.put(ENTRY, table.model_dump_json())
        return table
