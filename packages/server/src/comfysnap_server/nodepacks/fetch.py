"""Fetches node packs into ``custom_nodes``: git at a commit, registry versions, single files."""

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

from comfysnap_server.nodepacks.credential import TOKENS_VARIABLE
from comfysnap_server.nodepacks.manifest import FilePack, GitPack, Pack, RegistryPack

GIT_TIMEOUT: Final = 900.0
HTTP_TIMEOUT: Final = 60.0
ATTEMPTS: Final = 3
TRACKING: Final = ".tracking"
"""Manager's list of the files of a registry pack, in its folder."""
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


class FetchError(Exception):
    """A pack could not be fetched.

    Codes: ``access_denied``, ``commit_not_found``, ``ambiguous_commit``, ``git_failed``,
    ``version_not_found``, ``download_failed``, ``bad_archive``, ``already_exists``,
    ``local_changes``.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        self.code = code
        self.retryable = retryable
        """Whether trying again may help."""
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where packs come from, and with which tokens."""

    registry: str = "https://api.comfy.org"
    files: Path = Path()
    """Folder of the single-file packs."""
    tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    """Git host to the environment variable that holds its token."""
    pause: float = 2.0
    """Seconds before the second attempt; doubled for each further one."""

    def redact(self, text: str) -> str:
        """``text`` without the value of any token."""
        for variable in self.tokens.values():
            if token := os.environ.get(variable):
                text = text.replace(token, "***")
        return text

    def without_tokens(self) -> dict[str, str]:
        """The environment for other people's code."""
        hidden = set(self.tokens.values())
        return {key: value for key, value in os.environ.items() if key not in hidden}


def fetch_pack(pack: Pack, custom_nodes: Path, sources: Sources) -> str | None:
    """Fetch one pack into its folder.

    An existing folder is moved to the pack's version if it came from the same kind of source and
    has no local changes; files that are not part of the pack stay. When fetching fails, a new
    folder is removed.

    Returns:
        The full commit of a git pack, else None.

    Raises:
        FetchError: See there.
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
    """Delete a pack's folder or file, if there is one."""
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def _copy_file(pack: FilePack, target: Path, sources: Sources) -> None:
    source = sources.files / pack.folder
    try:
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise FetchError("already_exists", f"{target} has another content; move it away")
        shutil.copyfile(source, target)
    except OSError as error:
        raise FetchError("download_failed", str(error)) from error


class _Git:
    """git in one folder, with the tokens of the sources."""

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
            raise FetchError("git_failed", message) from error
        if done.returncode != 0:
            stderr = self.sources.redact(done.stderr)
            raise _git_error(arguments[0], stderr, urlsplit(self.url).netloc)
        return done.stdout

    def check_out(self, commit: str) -> None:
        try:
            self("checkout", "-q", "--detach", commit)
        except FetchError as error:
            message = f"{self.url} has no commit {commit}"
            raise FetchError("commit_not_found", message) from error
        self("submodule", "update", "-q", "--init", "--recursive", "--depth", "1")


_BRANCHES: Final = "+refs/heads/*:refs/remotes/origin/*"


def _fetch_git(pack: GitPack, target: Path, sources: Sources) -> str:
    git = _Git(target, pack.url, sources)
    if target.exists():
        return _again(lambda: _update_checkout(git, pack, sources), sources.pause)
    commit = _again(lambda: full_commit(pack, sources), sources.pause)

    def clone() -> str:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        git("init", "-q")
        git("remote", "add", "origin", pack.url)
        try:
            git("fetch", "-q", "--depth", "1", "origin", commit)
        except FetchError as error:
            if error.retryable or error.code == "access_denied":
                raise
            # some servers send tips only, so the commit is looked for in all branches
            git("fetch", "-q", "--tags", "origin", _BRANCHES)
        git.check_out(commit)
        return commit

    return _again(clone, sources.pause)


def _update_checkout(git: _Git, pack: GitPack, sources: Sources) -> str:
    """Move an existing checkout to the pack's commit."""
    if not (git.folder / ".git").exists():
        message = f"{git.folder} exists and is not a git checkout; move it away"
        raise FetchError("already_exists", message)
    head = git("rev-parse", "HEAD").strip()
    if head.startswith(pack.commit):
        return head
    if git("status", "--porcelain", "--untracked-files=no").strip():
        message = f"{git.folder} has local changes; undo them or move the folder away"
        raise FetchError("local_changes", message)
    commit = full_commit(pack, sources)
    git("fetch", "-q", "--tags", pack.url, _BRANCHES)
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except FetchError:
        with suppress(FetchError):  # the checkout says what is missing
            git("fetch", "-q", pack.url, commit)
    git.check_out(commit)
    return commit


def full_commit(pack: GitPack, sources: Sources) -> str:
    """All 40 digits of the pack's commit; a short one is looked up among the commits of all
    branches and tags, without fetching any file.

    Raises:
        FetchError: ``commit_not_found``, ``ambiguous_commit``, and those of git.
    """
    if not pack.has_short_commit:
        return pack.commit
    with tempfile.TemporaryDirectory() as folder:
        git = _Git(Path(folder), pack.url, sources)
        git("init", "-q", "--bare")
        # --tags alone would leave out the tags of other branches' commits
        refs = (_BRANCHES, "+refs/tags/*:refs/tags/*")
        git("fetch", "-q", "--no-tags", "--filter=tree:0", pack.url, *refs)
        found = [c for c in git("rev-list", "--all").split() if c.startswith(pack.commit)]
    if not found:
        message = f"no branch or tag of {pack.url} has a commit that begins with {pack.commit}"
        raise FetchError("commit_not_found", message)
    if len(found) > 1:
        message = f"{pack.commit} is ambiguous in {pack.url}: {', '.join(sorted(found))}"
        raise FetchError("ambiguous_commit", message)
    return found[0]


def _git_environment(sources: Sources) -> dict[str, str]:
    helper = f"!{shlex.quote(sys.executable)} -m comfysnap_server.nodepacks.credential"
    settings = [
        ("credential.helper", ""),  # forgets every helper that was set before
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


def _git_error(verb: str, stderr: str, host: str) -> FetchError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = "; ".join(lines[-3:]) or "no message"
    if _REFUSED.search(stderr):
        advice = f"if it is private, name its token: deploy.git_tokens for {host}, in a secret"
        return FetchError("access_denied", f"{said}; {advice} of deploy.build_secrets")
    return FetchError(
        "git_failed", f"git {verb}: {said}", retryable=bool(_RETRYABLE.search(stderr))
    )


def _fetch_version(pack: RegistryPack, target: Path, sources: Sources) -> None:
    base = sources.registry.rstrip("/")
    address = f"{base}/nodes/{quote(pack.folder)}/install?version={quote(pack.version)}"

    def look_up() -> str:
        try:
            answer: Any = json.loads(_get(address, MAX_ANSWER_BYTES))
        except ValueError as error:
            raise FetchError("download_failed", f"{base} did not answer with JSON") from error
        found = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
        download = found.get("downloadUrl")
        if not isinstance(download, str) or not download:
            message = f"the registry has no {pack.folder} {pack.version}"
            raise FetchError("version_not_found", message)
        if urlsplit(download).scheme not in {"https", urlsplit(base).scheme}:
            raise FetchError("download_failed", "the registry sent an address without https")
        return download

    download = _again(look_up, sources.pause)
    archive = _again(lambda: _get(download, MAX_ARCHIVE_BYTES), sources.pause)
    if target.exists() and not (target / TRACKING).is_file():
        message = f"{target} exists and did not come from the registry; move it away"
        raise FetchError("already_exists", message)
    # beside custom_nodes, where ComfyUI does not take it for a pack
    with tempfile.TemporaryDirectory(dir=target.parents[1]) as folder:
        unpacked = Path(folder, target.name)
        _unpack(io.BytesIO(archive), unpacked)
        _replace_tracked(unpacked, target)


def _get(address: str, limit: int) -> bytes:
    """The body of an http(s) address; ``urlopen`` would take a file address too."""
    if urlsplit(address).scheme not in {"http", "https"}:
        message = f"the address must start with https://, not {urlsplit(address).scheme}:"
        raise FetchError("download_failed", message)
    try:
        with urllib.request.urlopen(address, timeout=HTTP_TIMEOUT) as response:  # noqa: S310 scheme checked above
            body: bytes = response.read(limit + 1)
            length = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        code = "version_not_found" if error.code == 404 else "download_failed"
        message = f"{urlsplit(address).netloc} answered {error.code}"
        raise FetchError(code, message, retryable=error.code >= 500) from error
    except (OSError, HTTPException) as error:
        message = f"{urlsplit(address).netloc}: {error!r}"
        raise FetchError("download_failed", message, retryable=True) from error
    if len(body) > limit:
        raise FetchError("download_failed", f"larger than {limit} bytes")
    if length.isdigit() and len(body) < int(length):
        message = (
            f"{urlsplit(address).netloc}: the connection broke at {len(body)} of {length} bytes"
        )
        raise FetchError("download_failed", message, retryable=True)
    return body


def _unpack(stream: io.BytesIO, target: Path) -> None:
    """Unpack a zip of the registry, with the list of files that Manager keeps in it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise FetchError("bad_archive", f"unpacks to over {MAX_UNPACKED_BYTES} bytes")
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise FetchError("bad_archive", f"{member.filename!r} leaves the folder")
            target.mkdir(parents=True)
            archive.extractall(target)
            names = [member.filename for member in members if not member.is_dir()]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise FetchError("bad_archive", f"not a readable zip: {error}") from error
    (target / TRACKING).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")


def _replace_tracked(new: Path, target: Path) -> None:
    """Put an unpacked version in the place of the one before; files of the user stay."""
    if not target.exists():
        new.rename(target)
        return
    old = set((target / TRACKING).read_text(encoding="utf-8").splitlines())
    for name in old - set((new / TRACKING).read_text(encoding="utf-8").splitlines()):
        path = target / name
        if path.is_file() and path.resolve().is_relative_to(target.resolve()):
            path.unlink()
    shutil.copytree(new, target, dirs_exist_ok=True)


def _again(work: Callable[[], T], pause: float) -> T:
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except FetchError as error:
            if not error.retryable:
                raise
        time.sleep(pause * 2 ** (attempt - 1))
    return work()
