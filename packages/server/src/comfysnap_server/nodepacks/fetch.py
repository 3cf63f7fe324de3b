"""Fetches node packs into ``custom_nodes``: git commits, registry versions, single files."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlsplit

from comfysnap_server.errors import CommandError
from comfysnap_server.nodepacks.credential import TOKENS_VARIABLE
from comfysnap_server.nodepacks.manifest import FilePack, GitPack, Pack, RegistryPack

GIT_TIMEOUT: Final = 900.0
HTTP_TIMEOUT: Final = 60.0
ATTEMPTS: Final = 3
TRACKING: Final = ".tracking"
"""File in a registry pack's folder with the list of its files, as Manager writes it."""
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_ARCHIVE_BYTES: Final = 512 * 1024**2
MAX_UNPACKED_BYTES: Final = 4 * 1024**3
_SSH_HOSTS: Final = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org")
_REFUSED: Final = re.compile(
    r"Authentication failed|could not read (Username|Password)|Access denied|HTTP 40[13]"
    r"|error: 40[13]|Repository not found|repository '.*' not found",
    re.IGNORECASE,
)
_RETRYABLE: Final = re.compile(
    r"Could not resolve host|Couldn't connect|Connection (refused|reset|timed out)|timed out"
    r"|early EOF|RPC failed|HTTP 5\d\d|error: 5\d\d|Empty reply|transfer closed",
    re.IGNORECASE,
)

T = TypeVar("T")


class PackFetchError(CommandError):
    """A pack could not be fetched.

    Codes: ``access_denied``, ``commit_not_found``, ``ambiguous_commit``, ``git_failed``,
    ``version_not_found``, ``download_failed``, ``bad_archive``, ``already_exists``,
    ``local_changes``.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = retryable
        """Whether the same request may succeed later."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where packs are fetched from, and with which tokens."""

    registry: str = "https://api.comfy.org"
    """Base URL of the Comfy registry."""
    files: Path = Path()
    """Folder with the single-file packs."""
    tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    """Git host to the environment variable with its token."""
    pause: float = 2.0
    """Seconds before the second attempt; doubled for each further one."""

    def redact(self, text: str) -> str:
        """``text`` with the value of each token replaced."""
        for variable in self.tokens.values():
            if token := os.environ.get(variable):
                text = text.replace(token, "***")
        return text

    def without_tokens(self) -> dict[str, str]:
        """This process's environment without tokens, for the code of packs."""
        hidden = set(self.tokens.values())
        return {key: value for key, value in os.environ.items() if key not in hidden}


def fetch_pack(pack: Pack, custom_nodes: Path, sources: Sources) -> str | None:
    """Fetch one pack into its folder.

    An existing folder is updated to the pack's version if it came from the same kind of source
    and has no local changes; files that are not part of the pack stay. If it fails, a new folder
    is removed.

    Returns:
        The full commit of a git pack, else None.

    Raises:
        PackFetchError: Any of its codes.
    """
    target = custom_nodes / pack.folder
    existed = target.exists()
    try:
        if isinstance(pack, GitPack):
            return _fetch_git(pack, target, sources)
        if isinstance(pack, RegistryPack):
            _fetch_version(pack, target, sources)
        else:
            _copy_file(pack, target, sources)
    except BaseException:
        if not existed:
            remove(target)
        raise
    return None


def remove(target: Path) -> None:
    """Delete a pack's folder or file, if it exists."""
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def _copy_file(pack: FilePack, target: Path, sources: Sources) -> None:
    source = sources.files / pack.folder
    try:
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise PackFetchError(
                "already_exists", f"{target} already exists with other content; move it away"
            )
        shutil.copyfile(source, target)
    except OSError as error:
        raise PackFetchError("download_failed", str(error)) from error


class _Git:
    """git in a folder, with the tokens of ``sources``."""

    def __init__(self, folder: Path, url: str, sources: Sources) -> None:
        self.folder, self.url, self.sources = folder, url, sources
        self.environment = _git_environment(sources)

    def __call__(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.folder), *arguments],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            message = f"git {arguments[0]} timed out after {GIT_TIMEOUT:.0f} s"
            raise PackFetchError("git_failed", message) from error
        if done.returncode != 0:
            stderr = self.sources.redact(done.stderr)
            raise _git_error(arguments[0], stderr, urlsplit(self.url).netloc)
        return done.stdout

    def check_out(self, commit: str) -> None:
        try:
            self("checkout", "-q", "--detach", commit)
        except PackFetchError as error:
            message = f"commit {commit} not found in {self.url}"
            raise PackFetchError("commit_not_found", message) from error
        self("submodule", "update", "-q", "--init", "--recursive", "--depth", "1")


_BRANCHES: Final = "+refs/heads/*:refs/remotes/origin/*"


def _fetch_git(pack: GitPack, target: Path, sources: Sources) -> str:
    git = _Git(target, pack.url, sources)
    if target.exists():
        return _retry(lambda: _update_checkout(git, pack, sources), sources.pause)
    commit = _retry(lambda: full_commit(pack, sources), sources.pause)

    def clone() -> str:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        git("init", "-q")
        git("remote", "add", "origin", pack.url)
        try:
            git("fetch", "-q", "--depth", "1", "origin", commit)
        except PackFetchError as error:
            if error.retryable or error.code == "access_denied":
                raise
            # some servers only serve the tips of branches
            git("fetch", "-q", "--tags", "origin", _BRANCHES)
        git.check_out(commit)
        return commit

    return _retry(clone, sources.pause)


def _update_checkout(git: _Git, pack: GitPack, sources: Sources) -> str:
    """Update an existing checkout to the pack's commit."""
    if not (git.folder / ".git").exists():
        message = f"{git.folder} already exists and is not a git checkout; move it away"
        raise PackFetchError("already_exists", message)
    head = git("rev-parse", "HEAD").strip()
    if head.startswith(pack.commit):
        return head
    if git("status", "--porcelain", "--untracked-files=no").strip():
        message = f"{git.folder} has local changes; undo them or move the folder away"
        raise PackFetchError("local_changes", message)
    commit = full_commit(pack, sources)
    git("fetch", "-q", "--tags", pack.url, _BRANCHES)
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except PackFetchError:
        with suppress(PackFetchError):  # check_out reports a missing commit
            git("fetch", "-q", pack.url, commit)
    git.check_out(commit)
    return commit


def full_commit(pack: GitPack, sources: Sources) -> str:
    """The pack's commit in full, 40 hex digits.

    A short one is looked up among the commits of all branches and tags, without fetching files.

    Raises:
        PackFetchError: ``commit_not_found``, ``ambiguous_commit``, ``access_denied``,
            ``git_failed``.
    """
    if not pack.has_short_commit:
        return pack.commit
    with tempfile.TemporaryDirectory() as folder:
        git = _Git(Path(folder), pack.url, sources)
        git("init", "-q", "--bare")
        # --tags leaves out tags of commits that are on no branch
        refs = (_BRANCHES, "+refs/tags/*:refs/tags/*")
        git("fetch", "-q", "--no-tags", "--filter=tree:0", pack.url, *refs)
        found = [c for c in git("rev-list", "--all").split() if c.startswith(pack.commit)]
    if not found:
        message = f"no commit on a branch or tag of {pack.url} starts with {pack.commit}"
        raise PackFetchError("commit_not_found", message)
    if len(found) > 1:
        message = f"{pack.commit} is ambiguous in {pack.url}: {', '.join(sorted(found))}"
        raise PackFetchError("ambiguous_commit", message)
    return found[0]


def _git_environment(sources: Sources) -> dict[str, str]:
    helper = f"!{shlex.quote(sys.executable)} -m comfysnap_server.nodepacks.credential"
    settings = [
        ("credential.helper", ""),  # clears the helpers set before
        ("credential.helper", helper),
        ("protocol.ext.allow", "never"),
        ("protocol.file.allow", "never"),
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
    ]
    for host in sorted({*_SSH_HOSTS, *sources.tokens}):
        settings.append((f"url.https://{host}/.insteadOf", f"git@{host}:"))
        settings.append((f"url.https://{host}/.insteadOf", f"ssh://git@{host}/"))
    environment = dict(os.environ)
    environment |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
        TOKENS_VARIABLE: "\n".join(f"{host}={name}" for host, name in sources.tokens.items()),
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for index, (key, value) in enumerate(settings):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


def _git_error(verb: str, stderr: str, host: str) -> PackFetchError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    output = "; ".join(lines[-3:]) or "no output"
    if _REFUSED.search(stderr):
        advice = f"if it is private, set deploy.git_tokens for {host} and deploy.build_secrets"
        return PackFetchError("access_denied", f"{output}; {advice}")
    return PackFetchError(
        "git_failed", f"git {verb}: {output}", retryable=bool(_RETRYABLE.search(stderr))
    )


def _fetch_version(pack: RegistryPack, target: Path, sources: Sources) -> None:
    base = sources.registry.rstrip("/")
    address = f"{base}/nodes/{quote(pack.folder)}/install?version={quote(pack.version)}"

    def look_up() -> str:
        try:
            answer: Any = json.loads(_get(address, MAX_ANSWER_BYTES))
        except ValueError as error:
            raise PackFetchError("download_failed", f"{base} returned invalid JSON") from error
        found = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
        download = found.get("downloadUrl")
        if not isinstance(download, str) or not download:
            message = f"{pack.folder} {pack.version} not found in the registry"
            raise PackFetchError("version_not_found", message)
        if urlsplit(download).scheme not in {"https", urlsplit(base).scheme}:
            raise PackFetchError(
                "download_failed", "the registry returned a download URL without https"
            )
        return download

    download = _retry(look_up, sources.pause)
    archive = _retry(lambda: _get(download, MAX_ARCHIVE_BYTES), sources.pause)
    if target.exists() and not (target / TRACKING).is_file():
        message = f"{target} already exists and is not from the registry; move it away"
        raise PackFetchError("already_exists", message)
    # not in custom_nodes, where ComfyUI would load it as a pack
    with tempfile.TemporaryDirectory(dir=target.parents[1]) as folder:
        unpacked = Path(folder, target.name)
        _unpack(io.BytesIO(archive), unpacked)
        _replace_tracked(unpacked, target)


def _get(address: str, limit: int) -> bytes:
    """The body of an http(s) URL; ``urlopen`` alone would also open file URLs."""
    if urlsplit(address).scheme not in {"http", "https"}:
        message = f"the download URL must start with https://, got {urlsplit(address).scheme}:"
        raise PackFetchError("download_failed", message)
    try:
        with urllib.request.urlopen(address, timeout=HTTP_TIMEOUT) as response:  # noqa: S310 scheme checked above
            body: bytes = response.read(limit + 1)
            length = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        code = "version_not_found" if error.code == 404 else "download_failed"
        message = f"{urlsplit(address).netloc} returned {error.code}"
        raise PackFetchError(code, message, retryable=error.code >= 500) from error
    except (OSError, HTTPException) as error:
        message = f"{urlsplit(address).netloc}: {error!r}"
        raise PackFetchError("download_failed", message, retryable=True) from error
    if len(body) > limit:
        raise PackFetchError("download_failed", f"larger than {limit} bytes")
    if length.isdigit() and len(body) < int(length):
        message = f"{urlsplit(address).netloc}: connection lost at {len(body)} of {length} bytes"
        raise PackFetchError("download_failed", message, retryable=True)
    return body


def _unpack(stream: io.BytesIO, target: Path) -> None:
    """Unpack a zip of the registry, and write the list of its files as Manager does."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise PackFetchError(
                    "bad_archive", f"larger than {MAX_UNPACKED_BYTES} bytes when unpacked"
                )
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise PackFetchError(
                        "bad_archive", f"{member.filename!r} is outside the folder"
                    )
            target.mkdir(parents=True)
            archive.extractall(target)
            names = [member.filename for member in members if not member.is_dir()]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise PackFetchError("bad_archive", f"not a readable zip: {error}") from error
    (target / TRACKING).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")


def _replace_tracked(new: Path, target: Path) -> None:
    """Replace an older version with an unpacked one; files that are not part of it stay."""
    if not target.exists():
        new.rename(target)
        return
    old = set((target / TRACKING).read_text(encoding="utf-8").splitlines())
    for name in old - set((new / TRACKING).read_text(encoding="utf-8").splitlines()):
        path = target / name
        if path.is_file() and path.resolve().is_relative_to(target.resolve()):
            path.unlink()
    shutil.copytree(new, target, dirs_exist_ok=True)


def _retry(work: Callable[[], T], pause: float) -> T:
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except PackFetchError as error:
            if not error.retryable:
                raise
        time.sleep(pause * 2 ** (attempt - 1))
    return work()
