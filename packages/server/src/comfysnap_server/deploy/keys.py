"""API keys of a deployment: from a secret, and from a Dict, through which they change at once.

A secret reaches a container only when it starts, so warm gateways would accept a revoked key for as
long as they have requests. `comfysnap keys` writes both; of two that differ, the newer one counts.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import modal
from modal.exception import NotFoundError
from pydantic import BaseModel, model_validator

from comfysnap_schema.wire import ProjectError
from comfysnap_server.gateway import (
    KeyRecord,
    Keys,
    KeyStoreError,
    KeyTable,
    new_link_key,
    parse_link_key,
)

log = logging.getLogger(__name__)

KEYS_VARIABLE: Final = "COMFYSNAP_KEYS"
"""Variable in the keys secret: see ``KeyTable``."""
ENTRY: Final = "keys"
"""Where the Dict has the keys."""
_LINK_ENTRY: Final = "link"
"""Where it has the key that signs links."""
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

    async def add(self, key: str, value: str) -> bool:
        """Write the key unless it is there; whether it was written."""
        ...


class KeyEntry(BaseModel, frozen=True):
    """The entry of the Dict."""

    secret: str
    """Hash of the secret's text that has these keys."""
    older: list[str] = []
    """Hashes of texts that it had before. A gateway that started with one of them knows that its
    keys are old; one that started with another text has newer keys than the entry."""
    table: KeyTable

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, data: Any) -> Any:
        """Entries that were written before keys had names have ``keys``, by owner."""
        entry: dict[str, Any] = dict(data)
        if "keys" in entry:
            entry["table"] = KeyTable.parse(json.dumps(entry.pop("keys")))
        return entry

    @classmethod
    def of_secret(cls, text: str) -> "KeyEntry":
        """The keys of a secret.

        Raises:
            ValueError: The text is not a list of keys (see ``KeyTable.parse``), or has none.
        """
        table = KeyTable.parse(text)
        if not table.keys:
            raise ValueError("no keys")
        return cls(secret=hashlib.sha256(text.encode()).hexdigest(), table=table)

    def followed_by(self, newer: "KeyEntry") -> "KeyEntry":
        """The newer one, which knows this one to be older."""
        texts = [self.secret, *self.older] if self.secret else []
        older = [digest for digest in texts if digest != newer.secret]
        return newer.model_copy(update={"older": older[:_REMEMBERED]})


def read_secret(text: str | None, secret: str | None) -> KeyEntry:
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
        return KeyEntry.of_secret(text)
    except ValueError as error:
        message = (
            f"{KEYS_VARIABLE} is not a list of keys; `comfysnap keys add --deployed` makes one"
        )
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

    def __init__(self, app: Any, keys: Keys, entries: Entries, start: KeyEntry) -> None:
        self._app = app
        self._keys = keys
        self._entries = entries
        self._start = start
        self._due = float("-inf")
        self._lock = asyncio.Lock()
        keys.replace(start.table.keys)

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
                    entry = await self._newest()
            except Exception:
                log.exception("the keys could not be read; the ones from before stay")
            else:
                self._keys.replace(entry.table.keys)
            self._due = time.monotonic() + REFRESH_S

    async def _newest(self) -> KeyEntry:
        text = await self._entries.get(ENTRY)
        known = None if text is None else KeyEntry.model_validate_json(text)
        if known is not None and self._start.secret in (known.secret, *known.older):
            return known
        entry = known.followed_by(self._start) if known else self._start
        await self._entries.put(ENTRY, entry.model_dump_json())
        return entry


class SharedLinkKey:
    """The ``LinkKey`` of all gateways of a deployment, which the first link makes."""

    def __init__(self, entries: Callable[[], Entries]) -> None:
        self._entries = entries
        self._key: bytes | None = None

    async def read(self) -> bytes:
        """See ``LinkKey``."""
        if self._key is None:
            entries = self._entries()
            text = await entries.get(_LINK_ENTRY)
            if text is None:
                await entries.add(_LINK_ENTRY, new_link_key())
                text = await entries.get(_LINK_ENTRY)
            self._key = parse_link_key(text or "")
        return self._key


class DeploymentKeyStore:
    """A ``KeyStore`` in the secret and the Dict of a deployment, through the account at hand.
    Neither can be locked: of two changes at the same time one may be lost.

    Args:
        name: The deployment.
        secret: The secret, which the first ``add`` makes.
    """

    def __init__(self, name: str, secret: str) -> None:
        self.where = f"the secret {secret!r} of {name}; its gateways follow within a minute"
        self._name = name
        self._secret = secret
        self._entries = modal.Dict.from_name(f"{name}-keys", create_if_missing=True)

    def read(self) -> KeyTable:
        """See ``KeyStore``."""
        return self._entry().table

    def add(self, record: KeyRecord) -> None:
        """See ``KeyStore``."""
        entry = self._entry(new=True)
        self._write(entry, entry.table.added(record))

    def revoke(self, name: str) -> None:
        """See ``KeyStore``."""
        entry = self._entry()
        table = entry.table.without(name)
        if not table.keys:
            raise KeyStoreError("last_key", "this is the only key; add another one first")
        self._write(entry, table)

    def _entry(self, *, new: bool = False) -> KeyEntry:
        text: Any = self._entries.get(ENTRY)
        if text is not None:
            return KeyEntry.model_validate_json(text)
        if new and not self._has_secret():
            return KeyEntry(secret="", table=KeyTable())
        # a secret cannot be read, only its containers know what is in it
        message = f"no gateway of {self._name} has read its keys yet; send it a request first"
        if not self._has_secret():
            message = f"{self._name} has no keys yet; add one with `comfysnap keys add --deployed`"
        raise KeyStoreError("no_store", message)

    def _has_secret(self) -> bool:
        try:
            modal.Secret.from_name(self._secret).hydrate()
        except NotFoundError:
            return False
        return True

    def _write(self, entry: KeyEntry, table: KeyTable) -> None:
        text = table.to_json(indent=None)
        changed = entry.followed_by(KeyEntry.of_secret(text))
        # first, because what starts with the old secret would put its keys back
        if self._has_secret():
            modal.Secret.from_name(self._secret).update({KEYS_VARIABLE: text})
        else:
            modal.Secret.objects.create(self._secret, {KEYS_VARIABLE: text})
        self._entries.put(ENTRY, changed.model_dump_json())
