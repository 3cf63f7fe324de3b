"""Looks up the URL, size and hash of each model file at its source."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from comfysnap_server.errors import CommandError
from comfysnap_server.models.entry import ModelEntry, is_safe_path

if TYPE_CHECKING:
    import httpx
    from huggingface_hub import HfApi

CIVITAI: Final = "https://civitai.com"
CIVITAI_VARIABLE: Final = "CIVITAI_ENDPOINT"
"""Environment variable with the base URL of a mirror, like ``HF_ENDPOINT`` for Hugging Face."""
TIMEOUT: Final = 60.0
USER_AGENT: Final = "comfysnap"


class ModelError(CommandError):
    """A model file cannot be downloaded.

    Codes: ``access_denied``, ``not_found``, ``hash_mismatch``, ``wrong_content``,
    ``download_failed``, ``disk_full``, ``stopped``; of a model that a job names by URL also
    ``refused``, ``too_large``, ``cache_full``.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = retryable
        """Whether the same request may succeed later."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """Location of a file on Hugging Face."""

    repo: str
    name: str
    commit: str
    chunked: bool
    """Whether it is stored in Xet, which huggingface_hub downloads faster than plain HTTP."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file to download, as its source describes it now."""

    path: PurePosixPath
    """Inside ``models/``."""
    source: str
    """For people; without tokens."""
    url: str
    size: int | None = None
    sha256: str | None = None
    etag: str | None = None
    """Set only where it identifies the content: on Hugging Face."""
    token: str | None = field(default=None, repr=False)
    hub: HubFile | None = None


def resolve(entry: ModelEntry, client: "httpx.Client") -> list[ModelFile]:
    """Look up the files of an entry.

    Raises:
        ModelError: ``access_denied``, ``not_found``, ``download_failed``.
    """
    token = os.environ.get(entry.token_variable or "") or None
    if entry.repo is not None:
        return list(_hub_files(entry, token))
    if entry.civitai is not None:
        return [_civitai_file(entry, entry.civitai, token, client)]
    return [_plain_file(entry, token, client)]


def hub_endpoint() -> str | None:
    """``HF_ENDPOINT``, read at each call; None: the public Hugging Face."""
    return os.environ.get("HF_ENDPOINT") or None


def _hub_files(entry: ModelEntry, token: str | None) -> Iterator[ModelFile]:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    repo, api = str(entry.repo), HfApi(endpoint=hub_endpoint(), token=token)
    try:
        names = [entry.file] if entry.file else _hub_names(entry, api)
        for name in names:
            url = hf_hub_url(repo, name, revision=entry.revision, endpoint=hub_endpoint())
            found = api.get_hf_file_metadata(url=url)
            commit = found.commit_hash or entry.revision or "main"
            is_hash = found.etag is not None and len(found.etag) == 64
            yield ModelFile(
                path=entry.path or PurePosixPath(entry.folder or "", name),
                source=f"{repo}@{commit[:12]}:{name}",
                url=hf_hub_url(repo, name, revision=commit, endpoint=hub_endpoint()),
                size=found.size,
                sha256=(entry.sha256 or (found.etag if is_hash else None) or "").lower() or None,
                etag=found.etag,
                token=token,
                hub=HubFile(
                    repo=repo, name=name, commit=commit, chunked=found.xet_file_data is not None
                ),
            )
    except HfHubHTTPError as error:
        raise _hub_error(entry, error) from error
    except (httpx2.HTTPError, OSError) as error:
        raise ModelError("download_failed", f"{entry}: {error}", retryable=True) from error


def _hub_names(entry: ModelEntry, api: "HfApi") -> list[str]:
    """Files of a whole repository, except those outside a folder (README, settings)."""
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    tree = api.list_repo_tree(str(entry.repo), recursive=True, revision=entry.revision)
    names = [
        item.path
        for item in tree
        if isinstance(item, RepoFile) and "/" in item.path and not item.path.startswith(".")
    ]
    chosen = list(filter_repo_objects(names, allow_patterns=entry.include or None))
    if not chosen:
        raise ModelError("not_found", f"{entry}: no file in a folder matches")
    unsafe = [name for name in chosen if not is_safe_path(name)]
    if unsafe:
        raise ModelError("wrong_content", f"{entry}: unsafe path {unsafe[0]!r}")
    return chosen


def _hub_error(entry: ModelEntry, error: Exception) -> ModelError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    variable = entry.token_variable
    if isinstance(error, GatedRepoError):
        return ModelError(
            "access_denied",
            f"{entry} is gated: accept its licence on its page, then set {variable} to a token of "
            "that account",
        )
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
        return ModelError("not_found", f"{entry}: file or revision not found")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError("access_denied", f"{entry} was not found or is private; set {variable}")
    status: object = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return ModelError("access_denied", f"{entry}: access denied ({status}); set {variable}")
    return ModelError("download_failed", f"{entry}: Hugging Face returned {status}", retryable=True)


def _civitai_file(
    entry: ModelEntry, number: int, token: str | None, client: "httpx.Client"
) -> ModelFile:
    base = os.environ.get(CIVITAI_VARIABLE, CIVITAI).rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = get(client, f"{base}/api/v1/model-versions/{number}", headers, entry)
    try:
        answer: Any = response.json()
    except ValueError as error:
        raise ModelError("download_failed", f"{entry}: Civitai returned invalid JSON") from error
    version = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    files = cast("list[dict[str, Any]]", version.get("files") or [])
    chosen = next((file for file in files if file.get("primary")), files[0] if files else {})
    hashes = cast("dict[str, str]", chosen.get("hashes") or {})
    expected = entry.sha256 or hashes.get("SHA256")
    return ModelFile(
        path=PurePosixPath(entry.folder or "", entry.file_name),
        source=str(entry),
        url=f"{base}/api/download/models/{number}",
        sha256=expected.lower() if expected else None,
        token=token,
    )


def _plain_file(entry: ModelEntry, token: str | None, client: "httpx.Client") -> ModelFile:
    url = str(entry.url)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = get(client, url, headers, entry)
    length = response.headers.get("Content-Length", "")
    return ModelFile(
        path=PurePosixPath(entry.folder or "", entry.file_name),
        source=str(entry),
        url=url,
        size=int(length) if length.isdigit() else None,
        sha256=entry.sha256.lower() if entry.sha256 else None,
        token=token,
    )


def get(
    client: "httpx.Client", url: str, headers: dict[str, str], entry: ModelEntry
) -> "httpx.Response":
    """Send a GET; the body is read only if it is JSON.

    Raises:
        ModelError: See ``response_error``.
    """
    import httpx

    try:
        with client.stream("GET", url, headers={**headers, **IDENTITY}) as response:
            if failure := response_error(response, entry):
                raise failure
            if "json" in response.headers.get("Content-Type", ""):
                response.read()
            return response
    except httpx.HTTPError as error:
        raise ModelError("download_failed", f"{entry}: {error}", retryable=True) from error


IDENTITY: Final = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
"""Headers that request the file without compression, so that sizes and ranges are exact."""


def response_error(response: "httpx.Response", entry: object) -> ModelError | None:
    """The error that a response stands for; None if it has the file."""
    status = response.status_code
    if status in {401, 403}:
        hint = f"; set {entry.token_variable}" if isinstance(entry, ModelEntry) else ""
        return ModelError("access_denied", f"{entry}: access denied ({status}){hint}")
    if status in {404, 410}:
        return ModelError("not_found", f"{entry}: not found ({status})")
    if status >= 400:
        retryable = status in {408, 425, 429} or status >= 500
        return ModelError(
            "download_failed", f"{entry}: server returned {status}", retryable=retryable
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        return ModelError(
            "access_denied",
            f"{entry}: got a web page instead of a file, probably a login; set a token",
        )
    return None
