"""Asks where models come from what they are: address, size and hash of each file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from comfysnap_server.models.listed import ModelEntry, is_safe_path

if TYPE_CHECKING:
    import httpx
    from huggingface_hub import HfApi

CIVITAI: Final = "https://civitai.com"
CIVITAI_VARIABLE: Final = "CIVITAI_ENDPOINT"
"""Environment variable that names another Civitai, as ``HF_ENDPOINT`` does for Hugging Face."""
TIMEOUT: Final = 60.0
USER_AGENT: Final = "comfysnap"


class ModelError(Exception):
    """A model cannot be had.

    Codes: ``access_denied``, ``not_found``, ``hash_mismatch``, ``wrong_content``,
    ``download_failed``, ``disk_full``.
    """

    def __init__(self, code: str, message: str, *, passing: bool = False) -> None:
        self.code = code
        self.passing = passing
        """Whether trying again may help."""
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """Where a file lies on Hugging Face."""

    repo: str
    name: str
    commit: str
    chunked: bool
    """Stored in Xet, which huggingface_hub transfers many times faster than plain HTTP."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file to have, as its source tells of it now."""

    path: PurePosixPath
    """Below ``models/``."""
    source: str
    """For people; holds no token."""
    url: str
    size: int | None = None
    sha256: str | None = None
    etag: str | None = None
    """Set where it names the content: on Hugging Face."""
    token: str | None = field(default=None, repr=False)
    hub: HubFile | None = None


def resolve(entry: ModelEntry, client: "httpx.Client") -> list[ModelFile]:
    """The files an entry stands for.

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
    """Another Hugging Face than the public one; read at each call."""
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
        raise ModelError("download_failed", f"{entry}: {error}", passing=True) from error


def _hub_names(entry: ModelEntry, api: "HfApi") -> list[str]:
    """Files of a whole repository; those outside a folder (README, settings) are no models."""
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
        raise ModelError("not_found", f"{entry} has no such file in a folder")
    unsafe = [name for name in chosen if not is_safe_path(name)]
    if unsafe:
        raise ModelError("wrong_content", f"{entry} names {unsafe[0]!r}")
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
            f"{entry} is gated: accept its licence on its page, and set {variable} to a token of "
            "that account",
        )
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
        return ModelError("not_found", f"{entry} has no such file or revision")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError("access_denied", f"{entry} does not exist, or is private: set {variable}")
    status: object = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return ModelError("access_denied", f"{entry} was refused ({status}): set {variable}")
    return ModelError("download_failed", f"{entry}: the hub answered {status}", passing=True)


def _civitai_file(
    entry: ModelEntry, number: int, token: str | None, client: "httpx.Client"
) -> ModelFile:
    base = os.environ.get(CIVITAI_VARIABLE, CIVITAI).rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = ask(client, f"{base}/api/v1/model-versions/{number}", headers, entry)
    try:
        answer: Any = response.json()
    except ValueError as error:
        raise ModelError("download_failed", f"{entry}: no JSON from Civitai") from error
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
    response = ask(client, url, headers, entry)
    length = response.headers.get("Content-Length", "")
    return ModelFile(
        path=PurePosixPath(entry.folder or "", entry.file_name),
        source=str(entry),
        url=url,
        size=int(length) if length.isdigit() else None,
        sha256=entry.sha256.lower() if entry.sha256 else None,
        token=token,
    )


def ask(
    client: "httpx.Client", url: str, headers: dict[str, str], entry: ModelEntry
) -> "httpx.Response":
    """The answer to a GET; only a small one (JSON) is read.

    Raises:
        ModelError: See ``refusal``.
    """
    import httpx

    try:
        with client.stream("GET", url, headers={**headers, **IDENTITY}) as response:
            if reason := refusal(response, entry):
                raise reason
            if "json" in response.headers.get("Content-Type", ""):
                response.read()
            return response
    except httpx.HTTPError as error:
        raise ModelError("download_failed", f"{entry}: {error}", passing=True) from error


IDENTITY: Final = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
"""Asks for the bytes as they are stored, so that sizes and ranges hold."""


def refusal(response: "httpx.Response", entry: object) -> ModelError | None:
    """What a response that brings no file means."""
    status = response.status_code
    if status in {401, 403}:
        hint = f": set {entry.token_variable}" if isinstance(entry, ModelEntry) else ""
        return ModelError("access_denied", f"{entry} was refused ({status}){hint}")
    if status in {404, 410}:
        return ModelError("not_found", f"{entry} was not found ({status})")
    if status >= 400:
        passing = status in {408, 425, 429} or status >= 500
        return ModelError("download_failed", f"{entry}: answered {status}", passing=passing)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        return ModelError(
            "access_denied", f"{entry} led to a web page, perhaps a login: set a token"
        )
    return None
