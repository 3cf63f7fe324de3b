"""``[serve.remote_models]``: which models jobs may name by URL."""

import ipaddress
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, Field

from comfysnap_schema.workflow import setting_error

CACHED_MODELS: Final = "models"
"""Folder of the cache with its files, laid out like ComfyUI's own."""
_GIB: Final = 1024**3


def _host(text: str) -> str:
    bare = text.lower().removeprefix("*.")
    if not bare or any(letter in bare for letter in "/:@*? ") or bare.startswith("."):
        raise setting_error(
            "invalid_value", f'{text!r} is not a host name; use "example.com" or "*.example.com"'
        )
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise setting_error("invalid_value", f"{text!r} is not a network: {error}") from None


class RemoteModelSettings(BaseModel, frozen=True, extra="forbid"):
    """Models that jobs name by URL. Sizes in bytes."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    """Hosts that a URL may name: ``huggingface.co``, ``civitai.com``, or ``*.example.com`` for all
    below it. Empty: no job may name a URL. A host may redirect to any other on the public
    internet."""
    max_bytes: Annotated[int, Field(gt=0)] = 16 * _GIB
    """Maximum size of one file."""
    cache_bytes: Annotated[int, Field(gt=0)] = 100 * _GIB
    """Maximum size of all files that are kept; the least recently used are deleted first."""
    private_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Networks (``10.1.0.0/16``) that may be reached although they are private, and that a URL may
    name by address and with http://."""
    tokens: dict[Annotated[str, AfterValidator(_host)], str] = Field(
        default_factory=lambda: {"huggingface.co": "HF_TOKEN", "civitai.com": "CIVITAI_TOKEN"}
    )
    """For a host, the environment variable with the token that is sent to it only."""

    @property
    def enabled(self) -> bool:
        """Whether jobs may name URLs at all."""
        return bool(self.hosts)

    def problem(self, url: str) -> str | None:
        """Why a job may not name a URL, as it stands; None if it may."""
        if not self.enabled:
            return "this server takes no URLs of models; name a file that it has"
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            valid = bool(host) and parts.port != 0
        except ValueError:
            return "is not a valid address"
        if not valid or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
            return "is not a valid address"
        if parts.username is not None or parts.password is not None:
            return "must not contain a user name or password"
        if not any(_matches(host, allowed) for allowed in self.hosts):
            return f"the host {host[:100]!r} is not allowed; allowed: {', '.join(self.hosts)}"
        if parts.scheme != "https" and not self._may_be_plain(parts):
            return "must start with https://"
        return None

    def _may_be_plain(self, parts: SplitResult) -> bool:
        try:
            address = ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            return False
        networks = map(ipaddress.ip_network, self.private_networks)
        return parts.scheme == "http" and any(address in network for network in networks)


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed
