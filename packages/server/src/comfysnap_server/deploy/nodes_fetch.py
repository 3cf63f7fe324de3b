"""Brings node packs into ``custom_nodes``: git at a commit, registry versions, single files."""

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
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlsplit

from comfysnap_server.deploy.nodes_credential import TOKENS_VARIABLE
from comfysnap_server.deploy.nodes_snapshot import FilePack, GitPack, Pack, RegistryPack

GIT_TIMEOUT: Final = 900.0
HTTP_TIMEOUT: Final = 60.0
ATTEMPTS: Final = 3
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_ARCHIVE_BYTES: Final = 512 * 1024**2
MAX_UNPACKED_BYTES: Final = 4 * 1024**3
_SSH_HOSTS: Final = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org")
_REFUSED: Final = re.compile(
    r"Authentication failed|could not read (Username|Password)|Access denied|HTTP 40[13]"
    r"|error: 40[13]|Repository not found|repository '.*' not found",
    re.IGNORECASE,
)
_PASSING: Final = re.compile(
    r"Could not resolve host|Couldn't connect|Connection (refused|reset|timed out)|timed out"
    r"|early EOF|RPC failed|HTTP 5\d\d|error: 5\d\d|Empty reply|transfer closed",
    re.IGNORECASE,
)

T = TypeVar("T")


class FetchError(Exception):
    """A pack could not be brought.

    Codes: ``access_denied``, ``commit_not_found``, ``git_failed``, ``version_not_found``,
    ``download_failed``, ``bad_archive``.
    """

    def __init__(self, code: str, message: str, *, passing: bool = False) -> None:
        self.code = code
        self.passing = passing
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


def fetch_pack(pack: Pack, custom_nodes: Path, sources: Sources) -> None:
    """Bring one pack into its folder; nothing is left there when it fails.

    Raises:
        FetchError: See there.
    """
    target = custom_nodes / pack.folder
    try:
        if isinstance(pack, GitPack):
            _fetch_git(pack, target, sources)
        elif isinstance(pack, RegistryPack):
            _fetch_version(pack, target, sources)
        else:
            _copy_file(pack, target, sources)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _copy_file(pack: FilePack, target: Path, sources: Sources) -> None:
    try:
        shutil.copyfile(sources.files / pack.folder, target)
    except OSError as error:
        raise FetchError("download_failed", str(error)) from error


def _fetch_git(pack: GitPack, target: Path, sources: Sources) -> None:
    environment = _git_environment(sources)

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(target), *arguments]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=GIT_TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            message = f"git {arguments[0]} took over {GIT_TIMEOUT:.0f} s"
            raise FetchError("git_failed", message) from error
        if done.returncode != 0:
            raise _git_error(arguments[0], sources.redact(done.stderr), urlsplit(pack.url).netloc)

    def bring() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        git("init", "-q")
        git("remote", "add", "origin", pack.url)
        try:
            git("fetch", "-q", "--depth", "1", "origin", pack.commit)
        except FetchError as error:
            if error.passing or error.code == "access_denied":
                raise
            # some servers hand out tips only, so the commit is looked for in all branches
            git("fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        try:
            git("checkout", "-q", "--detach", pack.commit)
        except FetchError as error:
            message = f"{pack.url} has no commit {pack.commit}"
            raise FetchError("commit_not_found", message) from error
        git("submodule", "update", "-q", "--init", "--recursive", "--depth", "1")

    _again(bring, sources.pause)


def _git_environment(sources: Sources) -> dict[str, str]:
    helper = f"!{shlex.quote(sys.executable)} -m comfysnap_server.deploy.nodes_credential"
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
    return FetchError("git_failed", f"git {verb}: {said}", passing=bool(_PASSING.search(stderr)))


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
    with tempfile.TemporaryFile() as stream:
        stream.write(archive)
        _unpack(stream, target)


def _get(address: str, limit: int) -> bytes:
    """The body of an http(s) address; ``urlopen`` would take a file address too."""
    if urlsplit(address).scheme not in {"http", "https"}:
        raise FetchError("download_failed", f"{urlsplit(address).scheme}: is not fetched")
    try:
        with urllib.request.urlopen(address, timeout=HTTP_TIMEOUT) as response:  # noqa: S310 scheme checked above
            body: bytes = response.read(limit + 1)
            told = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        code = "version_not_found" if error.code == 404 else "download_failed"
        message = f"{urlsplit(address).netloc} answered {error.code}"
        raise FetchError(code, message, passing=error.code >= 500) from error
    except (OSError, HTTPException) as error:
        message = f"{urlsplit(address).netloc}: {error!r}"
        raise FetchError("download_failed", message, passing=True) from error
    if len(body) > limit:
        raise FetchError("download_failed", f"larger than {limit} bytes")
    if told.isdigit() and len(body) < int(told):
        message = f"{urlsplit(address).netloc}: the connection broke at {len(body)} of {told} bytes"
        raise FetchError("download_failed", message, passing=True)
    return body


def _unpack(stream: Any, target: Path) -> None:
    """Unpack a zip of the registry, with the list of files that Manager keeps beside it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise FetchError("bad_archive", f"unpacks to over {MAX_UNPACKED_BYTES} bytes")
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise FetchError("bad_archive", f"{member.filename!r} leaves the folder")
            archive.extractall(target)
            names = [member.filename for member in members if not member.is_dir()]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise FetchError("bad_archive", f"no zip that can be read: {error}") from error
    (target / ".tracking").write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")


def _again(work: Callable[[], T], pause: float) -> T:
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except FetchError as error:
            if not error.passing:
                raise
        time.sleep(pause * 2 ** (attempt - 1))
    return work()
