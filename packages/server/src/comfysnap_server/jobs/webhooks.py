"""When the end of a job is sent to a webhook, and when it is tried again. No I/O."""

import ipaddress
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, model_validator

from comfysnap_schema.wire import JobStatus, WebhookType, webhook_key
from comfysnap_server.jobs.ssrf import Network

SECRET_VARIABLE: Final = "COMFYSNAP_WEBHOOK_SECRET"  # noqa: S105 -- its name
_LONGEST_RETRY_AFTER_S: Final = 24 * 3600.0
_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})
_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def _host(pattern: str) -> str:
    name = pattern.lower().removeprefix("*.")
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]*:[0-9a-f:.]*", name):
        raise ValueError("expected a host name, or *. and a domain, without scheme, port or path")
    return pattern.lower()


Hosts = tuple[Annotated[str, AfterValidator(_host)], ...]
_NETWORK: Final = TypeAdapter[Network](Network)


class WebhookSettings(BaseModel, frozen=True, extra="forbid"):
    """``[serve.webhooks]``: where jobs may be sent when they end. By default nowhere."""

    hosts: Hosts = ()
    """Hosts of webhook URLs: ``hooks.example.com``, or ``*.example.com`` for all below it."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Webhook of jobs that name none; its host is allowed automatically."""
    events: Annotated[frozenset[WebhookType], Field(min_length=1)] | None = None
    """``job.succeeded``, ``job.failed``, ``job.cancelled``, ``job.timed_out``, ``job.expired``.
    None: all of them."""
    networks: tuple[str, ...] = ()
    """Private networks (``10.1.0.0/16``) that receivers may be in."""

    @model_validator(mode="after")
    def _check(self) -> "WebhookSettings":
        for entry in self.networks:
            _NETWORK.validate_python(entry)
        problem = self.url and self.refusal(self.url)
        if problem:
            raise ValueError(f"url {problem}")
        return self

    @property
    def enabled(self) -> bool:
        """Whether any webhook may be sent."""
        return bool(self.hosts or self.url)

    def refusal(self, url: str) -> str | None:
        """What is wrong with a webhook URL, as the end of a sentence; None: nothing."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return "must be an https:// address"
        if parts.scheme not in ("https", "http") or not host or port == 0:
            return "must be an https:// address"
        if parts.scheme == "http" and host not in _LOOPBACK_NAMES:
            return "must be https://; only a receiver on this machine may use http://"
        if parts.username is not None or parts.fragment or not _is_printable(url):
            return "must be an address without user name, password, fragment or spaces"
        if not self._allows(host):
            return f"names the host {host[:100]!r}, which [serve.webhooks] does not allow"
        return None

    def _allows(self, host: str) -> bool:
        if self.url is not None and host == urlsplit(self.url).hostname:
            return True
        return any(
            host.endswith(entry[1:]) and len(host) >= len(entry)
            if entry.startswith("*.")
            else host == entry
            for entry in self.hosts
        )

    def reachable(self, url: str) -> tuple[Network, ...]:
        """Networks beside the public internet that may be connected to for this URL."""
        allowed = tuple(_NETWORK.validate_python(entry) for entry in self.networks)
        if urlsplit(url).hostname in _LOOPBACK_NAMES:
            return (*allowed, *_LOOPBACK)
        return allowed


def _is_printable(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def webhook_keys(text: str | None) -> list[bytes]:
    """The keys of the variable, which may hold several secrets while one is replaced.

    Raises:
        ValueError: There is none, or one is not a secret.
    """
    keys = [webhook_key(secret) for secret in (text or "").split()]
    if not keys:
        raise ValueError(
            f"[serve.webhooks] needs the secret {SECRET_VARIABLE}; `comfysnap webhooks secret`"
            " creates one"
        )
    return keys


class Delivery(BaseModel, frozen=True):
    """What became of the webhook of one job."""

    url: str
    owner: str = ""
    """Whose job it is."""
    events: frozenset[WebhookType] | None = None
    """Those that are sent; None: all of them."""
    state: Literal["waiting", "pending", "delivered", "failed", "unwanted"] = "waiting"
    """``waiting``: for the job's end. ``failed``: it is not tried again. ``unwanted``: the job
    ended in a way that is not sent."""
    attempts: int = 0
    due_at: float = 0.0
    """When to send it, in seconds since 1970; while it waits, when the job was submitted."""
    last_error: str | None = None

    @property
    def host(self) -> str:
        """Whose time a slow attempt takes."""
        return urlsplit(self.url).hostname or ""

    def wants(self, status: JobStatus | str) -> bool:
        """Whether a job that ends so is sent."""
        return self.events is None or f"job.{status}" in self.events

    def again(self, now: float) -> "Delivery":
        """To be sent now, with all attempts ahead of it."""
        return self.model_copy(
            update={"state": "pending", "attempts": 0, "due_at": now, "last_error": None}
        )


class Reply(BaseModel, frozen=True):
    """What came of one attempt."""

    status: int | None = None
    """None: there was no answer."""
    retry_after: float | None = None
    """Seconds."""
    error: str = ""
    """Why there was no answer."""


class WebhookPolicy(BaseModel, frozen=True):
    """How often a webhook is tried. Seconds.

    The delays are those that the specification recommends; the last attempt comes after three days.
    """

    delays: tuple[float, ...] = (
        5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600,
    )  # fmt: skip
    jitter: float = 0.1
    """Share of a delay by which it is longer or shorter."""
    timeout: float = 15.0
    """For one attempt."""

    def after(self, delivery: Delivery, reply: Reply, now: float, draw: float) -> Delivery:
        """The delivery after one more attempt.

        Args:
            now: Seconds since 1970.
            draw: From 0 to 1, of a random source.
        """
        attempts = delivery.attempts + 1
        if reply.status is not None and 200 <= reply.status < 300:
            changes = {"state": "delivered", "attempts": attempts, "last_error": None}
            return delivery.model_copy(update=changes)
        error = reply.error or f"the receiver answered {reply.status}"
        changes = {"attempts": attempts, "last_error": error}
        if reply.status == _GONE or attempts > len(self.delays):
            return delivery.model_copy(update={**changes, "state": "failed"})
        delay = self.delays[attempts - 1] * (1 + self.jitter * (2 * draw - 1))
        if reply.status in _BUSY and reply.retry_after is not None:
            delay = max(delay, min(reply.retry_after, _LONGEST_RETRY_AFTER_S))
        return delivery.model_copy(update={**changes, "state": "pending", "due_at": now + delay})


def retry_after(header: str | None, now: datetime) -> float | None:
    """``Retry-After`` in seconds, which may be a date; None: not given, or not readable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
