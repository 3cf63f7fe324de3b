"""Who is asking: bearer keys, known only by their hashes."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final

from comfysnap_server.gateway.settings import GatewaySettings

KEY_PREFIX: Final = "cs_"
LOCAL_OWNER: Final = "local"
PROXY_OWNER: Final = "proxy"


def new_key() -> str:
    """A fresh key: 256 random bits, which is why one round of SHA-256 is enough to store it."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the server keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The accepted keys, which may change while the gateway runs."""

    def __init__(self, keys: Mapping[str, str | list[str]] | None = None) -> None:
        """Accept these; see ``GatewaySettings.keys``."""
        self._hashes: tuple[tuple[str, str], ...] = ()
        self.replace(keys or {})

    def replace(self, keys: Mapping[str, str | list[str]]) -> None:
        """Accept these and no others from now on."""
        self._hashes = tuple(
            (owner, digest)
            for owner, digests in keys.items()
            for digest in ([digests] if isinstance(digests, str) else digests)
        )

    def owner(self, key: str) -> str | None:
        """Whose key it is."""
        given = hash_key(key)
        found: str | None = None
        for owner, digest in self._hashes:
            if hmac.compare_digest(given, digest):
                found = owner
        return found


class Authenticator:
    """Names the owner of a request."""

    def __init__(self, settings: GatewaySettings, keys: Keys | None = None) -> None:
        """Take the mode and the keys.

        Args:
            settings: The mode, and the keys where no others are given.
            keys: Keys that may change, and may still be to come.

        Raises:
            ValueError: The mode is ``keys`` and there are none.
        """
        self._mode = settings.auth
        self._keys = keys or Keys(settings.keys)
        if self._mode == "keys" and keys is None and not settings.keys:
            raise ValueError("auth is 'keys' but no key is configured")

    def owner(self, headers: Mapping[str, str]) -> str | None:
        """The owner, or None when the request may not pass."""
        if self._mode == "none":
            return LOCAL_OWNER
        if self._mode == "proxy":
            return PROXY_OWNER
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        return self._keys.owner(key.strip())
