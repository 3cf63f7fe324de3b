"""Who is asking, and what they may do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from comfysnap_schema.wire import ErrorCode, Scope, routes
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget
from comfysnap_server.gateway.keys import KeyRecord, Keys, records_of
from comfysnap_server.gateway.mcp import errors as mcp
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.gateway.settings import GatewaySettings

LOCAL_OWNER: Final = "local"
PROXY_OWNER: Final = "proxy"

_EVERY: Final = frozenset(Scope)
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CANCEL: Final = re.compile(re.escape(routes.CANCEL) + "/.*")


@dataclass(frozen=True, kw_only=True)
class Access:
    """What one request may do."""

    owner: str
    key: str | None = None
    """Name of the key, where there are keys."""
    bucket: str
    """Whose requests are counted together: the hash of the key, or the owner without one."""
    scopes: frozenset[Scope] = _EVERY
    requests_per_minute: int | None = None
    budget: OwnerBudget = NO_BUDGET
    webhook: str | None = None
    """Of jobs that name none."""

    @property
    def sees_all(self) -> bool:
        """Whether jobs of other owners are visible, where there are any."""
        return self.key is not None and Scope.ADMIN in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Refuse a key that has none of these scopes.

        Raises:
            ProblemError: ``missing_scope``; it names the first one.
        """
        if self.scopes.isdisjoint(scopes):
            raise ProblemError(
                ErrorCode.MISSING_SCOPE,
                f"this key lacks the scope {scopes[0].value!r}; it has"
                f" {', '.join(sorted(self.scopes)) or 'none'}",
                scope=scopes[0].value,
                headers={
                    "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scopes[0]}"'
                },
            )

    def require_admin(self) -> None:
        """Refuse a key that is not an admin's.

        Raises:
            ProblemError: ``missing_scope``.
        """
        self.require(Scope.ADMIN)


def check_scope(access: Access, method: str, path: str) -> None:
    """Refuse a request that the key's scopes do not cover.

    Raises:
        ProblemError: ``missing_scope``.
    """
    if path in (routes.METRICS, routes.PURGE):
        access.require_admin()
    # a link opens what its key may read; each tool of /mcp checks for itself
    elif method in _READING or path in (routes.LINKS, mcp.PATH):
        access.require(Scope.READ, Scope.INFER, Scope.ADMIN)
    elif _CANCEL.fullmatch(path):
        access.require(Scope.INFER, Scope.ADMIN)
    else:
        access.require(Scope.INFER)


class Authenticator:
    """Finds what a request may do.

    Args:
        settings: The mode, and the keys where no others are given.
        keys: Keys that may change, and may still be to come.

    Raises:
        ValueError: The mode is ``keys`` and there are none.
    """

    def __init__(self, settings: GatewaySettings, keys: Keys | None = None) -> None:
        self._mode = settings.auth
        self._keys = keys or Keys(records_of(settings.keys))
        self._per_minute = settings.requests_per_minute
        if self._mode == "keys" and keys is None and not settings.keys:
            raise ValueError("auth is 'keys' but no key is configured")

    def access(self, headers: Mapping[str, str]) -> Access | None:
        """What the request may do, or None when it may not pass."""
        if self._mode == "none":
            return self._of_owner(LOCAL_OWNER)
        if self._mode == "proxy":
            return self._of_owner(PROXY_OWNER)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        record = self._keys.find(key.strip())
        return None if record is None else self._of_key(record)

    def by_link(self, owner: str) -> Access:
        """What the request of a valid link may do; its path is checked already."""
        return Access(
            owner=owner,
            bucket=f"owner {owner}",
            scopes=frozenset({Scope.READ}),
            requests_per_minute=self._per_minute,
        )

    def _of_owner(self, owner: str) -> Access:
        return Access(owner=owner, bucket=f"owner {owner}", requests_per_minute=self._per_minute)

    def _of_key(self, record: KeyRecord) -> Access:
        return Access(
            owner=record.owner,
            key=record.name,
            bucket=record.hash,
            scopes=frozenset(record.scopes),
            requests_per_minute=record.requests_per_minute or self._per_minute,
            budget=OwnerBudget(
                max_unfinished_jobs=record.max_unfinished_jobs,
                max_stored_bytes=record.max_stored_bytes,
            ),
            webhook=record.webhook,
        )
