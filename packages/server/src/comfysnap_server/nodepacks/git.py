"""Fetches node packs from git repositories, with a token for each host."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from comfysnap_server.nodepacks.credential import TOKENS_VARIABLE
from comfysnap_server.nodepacks.manifest import GitPack
from comfysnap_server.nodepacks.sources import PackFetchError, Sources

GIT_TIMEOUT: Final = 900.0
_BRANCHES: Final = "+refs/heads/*:refs/remotes/origin/*"
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


def fetch_git(pack: GitPack, target: Path, sources: Sources) -> str:
    """Fetch a pack at its commit into a folder; returns the full commit."""
    git = _Git(target, pack.url, sources)
    if target.exists():
        return sources.retry(lambda: _update_checkout(git, pack, sources))
    commit = sources.retry(lambda: full_commit(pack, sources))

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

    return sources.retry(clone)


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
    helper = f"!{shlex.quote(sys.executable)} -m comfysnap_server.nodepacks credential"
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
