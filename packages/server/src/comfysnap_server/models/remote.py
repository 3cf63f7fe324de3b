"""Downloads the models that jobs name by URL: guarded, checked, and kept in a cache."""

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx

from comfysnap_schema.wire import ErrorCode, FieldProblem, Problem
from comfysnap_server.errors import ComfysnapServerError
from comfysnap_server.jobs import (
    FetchError,
    FetchPolicy,
    RemoteModel,
    problem,
    resolve_address,
)
from comfysnap_server.models.cache import CachedModel, ModelCache, address_key
from comfysnap_server.models.download import RetryPolicy, Stop, download
from comfysnap_server.models.remote_settings import RemoteModelSettings
from comfysnap_server.models.sources import IDENTITY, ModelError, ModelFile, response_error
from comfysnap_server.models.syncing import make_client

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, keys included

Progress = Callable[[int, int | None], None]
"""Takes the bytes of the current file, and all that it has, if that is known."""

_MAX_REDIRECTS: Final = 8
_CHECK_AGAIN_S: Final = 3600.0
"""After which the server is asked whether an address without a hash has changed."""
_STEP_BYTES: Final = 64 * 1024 * 1024
"""Room is made in such steps for a file of unknown size."""
_REFUSED: Final = frozenset({"refused", "too_large", "wrong_content", "hash_mismatch"})


class RemoteModelError(ComfysnapServerError):
    """A model that a job names by URL cannot be downloaded, or must not be used."""

    def __init__(self, field: str, error: ModelError) -> None:
        refused = error.code in _REFUSED
        code = ErrorCode.MODEL_REFUSED if refused else ErrorCode.MODEL_UNAVAILABLE
        entry = FieldProblem(field=field, message=error.message)
        self.problem: Problem = problem(code, f"{field}: {error.message}").model_copy(
            update={"fields": (entry,)}
        )
        super().__init__(error.message)


class RemoteModels:
    """Models by URL.

    Args:
        cache: Where they are kept.
        settings: What is allowed.
        policy: Retries.
    """

    def __init__(
        self,
        cache: ModelCache,
        settings: RemoteModelSettings,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.cache = cache
        self._settings = settings
        self._policy = policy or RetryPolicy()
        self._fetch = FetchPolicy(allow=settings.private_networks)

    def fetch(
        self,
        models: Mapping[str, RemoteModel],
        holder: str,
        *,
        lease: float,
        progress: Progress,
        stop: Stop,
    ) -> dict[str, str]:
        """Have all models of a job in the cache, leased by it.

        Args:
            models: By placeholder.
            holder: The job.
            lease: Seconds after which its leases end by themselves.
            progress: Called while bytes arrive.
            stop: Set it to end the downloads; partial files stay for the next try.

        Returns:
            Placeholder to SHA-256.

        Raises:
            RemoteModelError: Names the field.
        """
        found: dict[str, str] = {}
        for name, model in models.items():
            try:
                found[name] = _Fetch(self, model, holder, lease, progress, stop).run()
            except ModelError as error:
                raise RemoteModelError(model.field, error) from error
            except OSError as error:
                reason = ModelError("disk_full", f"cannot be stored: {error.strerror or error}")
                raise RemoteModelError(model.field, reason) from error
        return found

    def client(self) -> httpx.Client:
        """A client that connects only where the settings allow, proxies not used."""
        client = make_client(_GuardedTransport(self._fetch))
        client.max_redirects = _MAX_REDIRECTS
        return client

    def check(self, url: str) -> None:
        """Refuse an address that the settings do not allow.

        Raises:
            ModelError: ``refused``.
        """
        reason = self._settings.problem(url)
        if reason is not None:
            raise ModelError("refused", reason)

    @property
    def max_bytes(self) -> int:
        """Of one file."""
        return self._settings.max_bytes

    @property
    def policy(self) -> RetryPolicy:
        """Retries."""
        return self._policy

    def token(self, host: str) -> str | None:
        """The token for a host, read at each download."""
        return os.environ.get(self._settings.tokens.get(host, ""), "").strip() or None


class _Fetch:
    """One model for one job."""

    def __init__(
        self,
        models: RemoteModels,
        model: RemoteModel,
        holder: str,
        lease: float,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._models, self._model, self._cache = models, model, models.cache
        self._holder, self._lease = holder, lease
        self._progress, self._stop = progress, stop
        self._url = download_address(model.url)
        self._host = (urlsplit(self._url).hostname or "").lower()
        self._key = address_key(model.folder, self._url)
        self._reserved = 0
        self._total: int | None = None

    def run(self) -> str:
        self._models.check(self._url)
        digest = self._model.sha256
        if digest is not None and self._leased(digest):
            return digest
        try:
            with self._cache.downloading(self._key, self._stop.is_set):
                return self._known() or self._download()
        except InterruptedError:
            raise ModelError("stopped", "stopped") from None

    def _leased(self, digest: str) -> bool:
        model = CachedModel(self._model.folder, digest)
        return self._cache.lease(model, self._holder, self._lease)

    def _known(self) -> str | None:
        """The hash of what the address had, if that is here and the server has nothing newer."""
        if self._model.sha256 is not None:  # another may have downloaded it meanwhile
            return self._model.sha256 if self._leased(self._model.sha256) else None
        origin = self._cache.origin(self._key)
        if origin is None or not self._leased(origin["sha256"]):
            return None
        validator = origin["validator"]
        if validator is not None and self._cache.age(origin) >= _CHECK_AGAIN_S:
            if self._changed(validator):
                return None
            self._cache.confirm(self._key, origin["sha256"], validator)
        return origin["sha256"]

    def _changed(self, validator: str) -> bool:
        conditional = "If-None-Match" if validator.startswith('"') else "If-Modified-Since"
        headers = {**IDENTITY, conditional: validator}
        if token := self._models.token(self._host):
            headers["Authorization"] = f"Bearer {token}"
        try:
            with (
                self._models.client() as client,
                client.stream("GET", self._url, headers=headers) as response,
            ):
                failure = response_error(response, self._host)
                if failure is not None and not failure.retryable:
                    raise failure
                return failure is None and response.status_code != HTTPStatus.NOT_MODIFIED
        except httpx.HTTPError as error:
            logger.warning(
                "%s: not asked for a newer version: %s", self._host, type(error).__name__
            )
            return False

    def _download(self) -> str:
        part = self._cache.part(self._key)
        file = ModelFile(
            path=PurePosixPath("model.safetensors"),  # its suffix decides what is checked
            source=self._host,
            url=self._url,
            sha256=self._model.sha256,
            token=self._models.token(self._host),
        )
        try:
            with self._models.client() as client:
                digest = download(
                    file,
                    part,
                    client,
                    self._models.policy,
                    progress=self._advance,
                    stop=self._stop,
                    expect=self._expect,
                )
        except ModelError as error:
            if error.code in _REFUSED:
                part.delete()
            if error.code == "disk_full":  # whose text names folders of the server
                logger.error("a model cannot be stored: %s", error)  # noqa: TRY400
                raise ModelError("disk_full", "the server has no room for the file") from error
            raise
        validator = part.validator()
        model = CachedModel(self._model.folder, digest)
        self._cache.place(self._key, model, self._holder, self._lease)
        self._cache.confirm(self._key, digest, validator)
        logger.info("downloaded a model for %s from %s: %s", model.folder, self._host, digest)
        return digest

    def _expect(self, total: int | None) -> None:
        self._total = total
        if total is not None:
            self._reserve(total)

    def _advance(self, done: int) -> None:
        if done > self._reserved:
            ahead = done + _STEP_BYTES
            fits = ahead <= min(self._models.max_bytes, self._cache.max_bytes)
            self._reserve(ahead if fits else done)
        self._progress(done, self._total)

    def _reserve(self, size: int) -> None:
        if size > self._models.max_bytes:
            limit = self._models.max_bytes
            raise ModelError("too_large", f"{self._host}: the file is larger than {limit} bytes")
        self._cache.reserve(self._key, size)
        self._reserved = size


class _GuardedTransport(httpx.HTTPTransport):
    """Connects to the address that was checked, so that a name cannot change its meaning."""

    def __init__(self, policy: FetchPolicy) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=4,
            network_backend=_GuardedNetwork(policy),
        )


class _GuardedNetwork(httpcore.SyncBackend):
    def __init__(self, policy: FetchPolicy) -> None:
        self._networks = policy.networks

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Look the name up once, check the address, and connect to it.

        Raises:
            ModelError: ``refused``.
        """
        try:
            address = resolve_address(host, port, self._networks)
        except FetchError as error:
            raise ModelError("refused", f"{host}: {error}") from error
        except OSError as error:
            raise httpcore.ConnectError("the host is not known") from error
        return super().connect_tcp(address, port, timeout, local_address, socket_options)


def download_address(url: str) -> str:
    """The address of the file, where that of its page is given."""
    parts = urlsplit(url)
    if parts.hostname == "huggingface.co":
        segments = parts.path.split("/")
        if len(segments) > 4 and segments[3] == "blob":
            segments[3] = "resolve"
            parts = parts._replace(path="/".join(segments))
    return parts._replace(fragment="").geturl()
