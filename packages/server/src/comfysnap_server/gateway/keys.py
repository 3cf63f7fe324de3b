"""API keys: what is stored of them, and the set that a gateway accepts."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Protocol

from pydantic import BaseModel, Field

from comfysnap_schema.wire import Scope, routes
from comfysnap_server.errors import CommandError

KEY_PREFIX: Final = "cs_"
KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
DEFAULT_SCOPES: Final = (Scope.INFER, Scope.READ)

KeyHash = Annotated[str, Field(pattern=routes.SHA256_PATTERN)]
KeyHashes = Mapping[str, str | list[str]]
"""Owner to the hashes of the owner's keys: ``[serve.keys]``, and the format of older stores."""
_Limit = Annotated[int, Field(ge=1)] | None


def new_key() -> str:
    """A fresh key: 256 random bits, which is why one round of SHA-256 is enough to store it."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the server keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyStoreError(CommandError):
    """A key cannot be added or revoked: ``duplicate_key``, ``unknown_key``, ``invalid_keys``,
    ``last_key``, ``no_store``."""


class KeyRecord(BaseModel, frozen=True, extra="forbid"):
    """A key, without the key itself."""

    name: Annotated[str, Field(min_length=1, max_length=300)]
    """Unique in its store."""
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    """Jobs and files belong to the owner; several keys of one owner share them."""
    hash: KeyHash
    """SHA-256 of the key."""
    ends_with: str = ""
    """Last four characters, to recognise a key."""
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    requests_per_minute: _Limit = None
    """Requests of this key that one server process takes. None: the server's setting, as below."""
    max_unfinished_jobs: _Limit = None
    """Of the owner, when this key submits another."""
    max_stored_bytes: _Limit = None
    """Of the owner's files and jobs, when this key adds to them."""
    webhook: Annotated[str, Field(max_length=2048)] | None = None
    """Of jobs that this key submits and that name none. None: ``serve.webhooks.url``."""
    created: datetime | None = None
    expires: datetime | None = None
    """After which the key is refused. None: never."""

    def is_valid(self, now: datetime) -> bool:
        """Whether the key has not expired."""
        return self.expires is None or now < self.expires

    def shown(self) -> dict[str, Any]:
        """What lists show: everything but the hash."""
        return self.model_dump(mode="json", exclude={"hash"}, exclude_none=True)


class KeyTable(BaseModel, frozen=True, extra="forbid"):
    """The keys of a store, as they are stored."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    keys: tuple[KeyRecord, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "KeyTable":
        """Read a store; an object of owners and hashes is the older format.

        Raises:
            ValueError: Neither of the two, or two keys have the same name.
        """
        data = json.loads(text)
        if isinstance(data, dict) and "keys" in data and isinstance(data["keys"], list):
            table = cls.model_validate_json(text)
        else:
            table = cls(keys=records_of(_Hashes.model_validate({"keys": data}).keys))
        if len({record.name for record in table.keys}) < len(table.keys):
            raise ValueError("two keys have the same name")
        return table

    def to_json(self, *, indent: int | None = 1) -> str:
        """The text to store."""
        return self.model_dump_json(exclude_none=True, indent=indent)

    def added(self, record: KeyRecord) -> "KeyTable":
        """With another key.

        Raises:
            KeyStoreError: ``duplicate_key``.
        """
        if any(known.name == record.name for known in self.keys):
            message = f"there is a key named {record.name!r} already; revoke it, or choose another"
            raise KeyStoreError("duplicate_key", message)
        return KeyTable(keys=(*self.keys, record))

    def without(self, name: str) -> "KeyTable":
        """Without a key.

        Raises:
            KeyStoreError: ``unknown_key``.
        """
        kept = tuple(record for record in self.keys if record.name != name)
        if len(kept) == len(self.keys):
            names = ", ".join(record.name for record in self.keys) or "none"
            raise KeyStoreError("unknown_key", f"unknown key {name!r}; available: {names}")
        return KeyTable(keys=kept)


class _Hashes(BaseModel):
    keys: dict[str, KeyHash | list[KeyHash]]


class KeyStore(Protocol):
    """Where keys are kept: a file, or a deployment on Modal."""

    where: str
    """For messages."""

    def read(self) -> KeyTable:
        """The keys as they are now.

        Raises:
            KeyStoreError: ``invalid_keys``, ``no_store``.
        """
        ...

    def add(self, record: KeyRecord) -> None:
        """Store another key.

        Raises:
            KeyStoreError: ``duplicate_key``, and those of ``read``.
        """
        ...

    def revoke(self, name: str) -> None:
        """Delete a key.

        Raises:
            KeyStoreError: ``unknown_key``, ``last_key``, and those of ``read``.
        """
        ...


def records_of(keys: KeyHashes) -> tuple[KeyRecord, ...]:
    """Keys of the older format, named after their owners: ``alice``, ``alice-2``."""
    return tuple(
        KeyRecord(name=owner if number == 1 else f"{owner}-{number}", owner=owner, hash=digest)
        for owner, digests in keys.items()
        for number, digest in enumerate([digests] if isinstance(digests, str) else digests, 1)
    )


class Keys:
    """The accepted keys, which may change while the gateway runs."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        """Accept these."""
        self._by_hash: dict[str, KeyRecord] = {}
        self.replace(records)

    @property
    def owners(self) -> set[str]:
        """Of the accepted keys."""
        return {record.owner for record in self._by_hash.values()}

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Accept these and no others from now on."""
        # found by hash: timing tells at most about the hash of a guess, never about a key
        self._by_hash = {record.hash: record for record in records}

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key that is accepted now."""
        record = self._by_hash.get(hash_key(key))
        return record if record is not None and record.is_valid(datetime.now(UTC)) else None
