"""Links: signed tokens that open one event stream or one output for some minutes, without a key."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from comfysnap_schema.wire import Link, LinkRequest, routes
from comfysnap_server.gateway.key_file import write_private

LINK_KEY_FILE: Final = "link.key"
"""In the data folder."""
_KEY_BYTES: Final = 32
_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]{1,300})\.([1-9]\d{0,11})\.([A-Za-z0-9_-]{43})")


class LinkKey(Protocol):
    """The secret that signs links, shared by all processes that check them."""

    async def read(self) -> bytes:
        """The key, at least 32 bytes; made when there is none.

        Raises:
            Exception: It can neither be read nor made.
        """
        ...


class ProcessLinkKey:
    """A key of this process alone."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES)

    async def read(self) -> bytes:
        """See ``LinkKey``."""
        return self._key


class LinkKeyFile:
    """A key in a file of mode 0600, made by the first link. Deleting the file ends all links, at
    the next start of the server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: bytes | None = None

    async def read(self) -> bytes:
        """See ``LinkKey``."""
        if self._key is None:
            self._key = self._load()
        return self._key

    def _load(self) -> bytes:
        with contextlib.suppress(FileExistsError):
            write_private(self._path, new_link_key().encode(), replace=False)
        return parse_link_key(self._path.read_text(encoding="ascii"))


def new_link_key() -> str:
    """A key as text."""
    return secrets.token_hex(_KEY_BYTES)


def parse_link_key(text: str) -> bytes:
    """A key of ``new_link_key``.

    Raises:
        ValueError: It is damaged.
    """
    key = bytes.fromhex(text.strip())
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a link key must have {_KEY_BYTES} bytes, got {len(key)}")
    return key


class Links:
    """Signs and checks tokens: HMAC-SHA256 over route, owner, job, output and expiry.

    Args:
        key: The signing key.
        now: Seconds since the epoch.
    """

    def __init__(self, key: LinkKey, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now

    async def sign(self, owner: str, request: LinkRequest) -> Link:
        """A link to what the owner asks for."""
        expiry = int(self._now()) + request.expires_in
        if request.output is None:
            path = quoted = f"{routes.EVENTS}/{request.job_id}"
        else:
            path = f"{routes.OUTPUTS}/{request.job_id}/{request.output}"
            quoted = f"{routes.OUTPUTS}/{request.job_id}/{quote(request.output, safe='')}"
        signature = await self._signature(owner, path, expiry)
        token = f"{_encode(owner.encode())}.{expiry}.{signature}"
        expires_at = datetime.fromtimestamp(expiry, UTC)
        return Link(url=f"{quoted}?{routes.LINK_PARAMETER}={token}", expires_at=expires_at)

    async def opened(self, path: str, token: str) -> tuple[str, int] | None:
        """The owner and the seconds left of a token for ``path``; None for one that does not open
        it, or no longer."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        try:
            owner = _decode(found[1])
        except ValueError:
            return None
        left = int(found[2]) - self._now()
        good = hmac.compare_digest(await self._signature(owner, path, int(found[2])), found[3])
        # a leaked key must not make a token for ever either
        return (owner, int(left)) if good and 0 < left <= routes.MAX_LINK_S else None

    async def _signature(self, owner: str, path: str, expiry: int) -> str:
        text = json.dumps(["comfysnap link 1", owner, path, expiry])
        return _encode(hmac.digest(await self._key.read(), text.encode(), hashlib.sha256))


def is_linkable(path: str) -> bool:
    """Whether links open a path."""
    return path.startswith((f"{routes.EVENTS}/", f"{routes.OUTPUTS}/"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> str:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        owner = data.decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("not base64 of a text") from error
    if _encode(data) != text:  # bits that base64 leaves out
        raise ValueError("not the one base64 of a text")
    return owner
