"""ComfyUI-Manager's ``snapshot.json``: which ComfyUI, node packs and packages to install.

The format is that of ``get_current_snapshot`` in ``glob/manager_core.py`` of
Comfy-Org/ComfyUI-Manager; the keys ``required`` and ``sha256`` are our additions. Also runs in the
image build, so it imports only the standard library.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlsplit

from comfysnap_server.errors import CommandError

MAX_SNAPSHOT_BYTES: Final = 4 * 1024 * 1024
SHIPPED: Final = frozenset({"websocket_image_save.py"})
"""Single-file packs that are part of ComfyUI; Manager lists them like any other."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_COMMIT_OR_START: Final = re.compile(r"[0-9a-f]{7,40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SCP: Final = re.compile(r"[A-Za-z0-9._-]+@(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/:].*)")
_SECTIONS: Final = frozenset(
    {"comfyui", "git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes", "pips"}
)


class PackManifestError(CommandError):
    """``snapshot.json`` cannot be installed as it is.

    Codes: ``unreadable``, ``invalid_json``, ``unknown_key``, ``invalid_entry``, ``not_pinned``,
    ``credentials_in_url``, ``unsupported_url``, ``duplicate_pack``, ``missing_file``.
    """

    def __init__(self, code: str, entry: str, message: str) -> None:
        super().__init__(code, message)
        self.entry = entry
        """Key that is wrong, for example ``git_custom_nodes.https://...``; may be empty."""

    def __str__(self) -> str:
        """Key and message."""
        return f"{self.entry}: {self.message}" if self.entry else self.message


@dataclass(frozen=True, kw_only=True)
class GitPack:
    """A node pack at a commit of a git repository."""

    folder: str
    url: str
    """https or http URL, without credentials."""
    commit: str
    """40 hex digits, or at least the first 7 of them; see ``has_short_commit``."""
    required: bool = True

    @property
    def has_short_commit(self) -> bool:
        """Whether ``commit`` has fewer than 40 digits."""
        return not _COMMIT.fullmatch(self.commit)


@dataclass(frozen=True, kw_only=True)
class RegistryPack:
    """A node pack at a version of the Comfy registry."""

    folder: str
    """The pack's id."""
    version: str
    sha256: str | None = None
    """Expected SHA-256 of the archive, in lower-case hex. None: not checked."""
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class FilePack:
    """A node pack of one file, in ``custom_nodes/`` beside the snapshot."""

    folder: str
    """The file name."""
    required: bool = True


Pack = GitPack | RegistryPack | FilePack


@dataclass(frozen=True, kw_only=True)
class NodeManifest:
    """Contents of a ``snapshot.json``."""

    comfyui: str | None = None
    """Commit; None: not pinned."""
    packs: tuple[Pack, ...] = ()
    disabled: tuple[str, ...] = ()
    """Folders of disabled packs, which are not installed."""
    pips: tuple[str, ...] = ()
    """Pinned requirements."""
    skipped_pips: tuple[str, ...] = ()
    """Entries that only work on the machine of the snapshot: editable and local packages."""

    @property
    def short_commits(self) -> list[GitPack]:
        """Git packs whose commit has fewer than 40 digits."""
        return [p for p in self.packs if isinstance(p, GitPack) and p.has_short_commit]


def read_manifest(path: Path) -> NodeManifest:
    """Read and validate a ``snapshot.json``.

    Raises:
        PackManifestError: Any of its codes.
    """
    try:
        if path.stat().st_size > MAX_SNAPSHOT_BYTES:
            raise PackManifestError("unreadable", "", f"larger than {MAX_SNAPSHOT_BYTES} bytes")
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise PackManifestError("unreadable", "", f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PackManifestError("invalid_json", "", f"{path} is not valid JSON: {error}") from error
    manifest = parse_manifest(data)
    packs: list[Pack] = []
    for pack in manifest.packs:
        if (
            isinstance(pack, FilePack)
            and not (path.parent / "custom_nodes" / pack.folder).is_file()
        ):
            if pack.folder in SHIPPED:
                continue
            raise PackManifestError(
                "missing_file",
                f"file_custom_nodes.{pack.folder}",
                f"file not found; put it into {path.parent / 'custom_nodes'}",
            )
        packs.append(pack)
    return replace(manifest, packs=tuple(packs))


def complete_commits(path: Path, commits: Mapping[str, str]) -> list[str]:
    """Replace the short commits in a ``snapshot.json`` with full ones.

    Args:
        path: The file. It is only written if something changes, in Manager's format.
        commits: Folder of a git pack to its full commit.

    Returns:
        URLs of the packs whose commit was completed.
    """
    data: dict[str, Any] = json.loads(path.read_bytes())
    completed: list[str] = []
    for url, entry in _table(data, "git_custom_nodes").items():
        pack, _ = _git_pack(url, entry)
        full = commits.get(pack.folder, "")
        if isinstance(pack, GitPack) and pack.has_short_commit and full.startswith(pack.commit):
            entry["hash"] = full
            completed.append(url)
    if completed:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(data, indent=4) + "\n", encoding="utf-8")
        part.replace(path)
    return completed


def parse_manifest(data: Any) -> NodeManifest:
    """Validate the content of a ``snapshot.json``.

    Raises:
        PackManifestError: Any of its codes but ``unreadable``, ``invalid_json``, ``missing_file``.
    """
    if not isinstance(data, dict):
        raise PackManifestError("invalid_entry", "", "must be a JSON object")
    sections = cast("dict[str, Any]", data)
    for key in sections:
        if key not in _SECTIONS:
            known = ", ".join(sorted(_SECTIONS))
            raise PackManifestError("unknown_key", key, f"unknown key; valid keys: {known}")
    comfyui = sections.get("comfyui") or None
    if comfyui is not None and not (isinstance(comfyui, str) and _COMMIT.fullmatch(comfyui)):
        raise PackManifestError("not_pinned", "comfyui", "must be a commit (40 hex digits)")
    found = [
        *(_git_pack(url, entry) for url, entry in _table(sections, "git_custom_nodes").items()),
        *(_registry_pack(name, e) for name, e in _table(sections, "cnr_custom_nodes").items()),
        *(_file_pack(entry) for entry in _list(sections, "file_custom_nodes")),
    ]
    packs = tuple(pack for pack, disabled in found if not disabled)
    _check_duplicates(packs)
    pips, skipped = _pips(_table(sections, "pips"))
    return NodeManifest(
        comfyui=comfyui,
        packs=packs,
        disabled=tuple(pack.folder for pack, disabled in found if disabled),
        pips=pips,
        skipped_pips=skipped,
    )


def _table(sections: dict[str, Any], key: str) -> dict[str, Any]:
    value: Any = sections.get(key) or {}
    if not isinstance(value, dict):
        raise PackManifestError("invalid_entry", key, "must be an object")
    return cast("dict[str, Any]", value)


def _list(sections: dict[str, Any], key: str) -> list[Any]:
    value: Any = sections.get(key) or []
    if not isinstance(value, list):
        raise PackManifestError("invalid_entry", key, "must be a list")
    return cast("list[Any]", value)


def _options(where: str, entry: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise PackManifestError("invalid_entry", where, "must be an object")
    options = cast("dict[str, Any]", entry)
    for key, value in options.items():
        if key not in known | {"disabled", "required"}:
            raise PackManifestError("unknown_key", f"{where}.{key}", "unknown key")
        if key in {"disabled", "required"} and not isinstance(value, bool):
            raise PackManifestError("invalid_entry", f"{where}.{key}", "must be true or false")
    return options


def _git_pack(url: str, entry: Any) -> tuple[Pack, bool]:
    where = f"git_custom_nodes.{url}"
    options = _options(where, entry, {"hash"})
    disabled = options.get("disabled", False)
    commit = options.get("hash")
    if not disabled and not (isinstance(commit, str) and _COMMIT_OR_START.fullmatch(commit)):
        message = "hash must be a commit: 40 hex digits, or at least the first 7 of them"
        raise PackManifestError("not_pinned", where, message)
    address = https_url(url, where)
    folder = urlsplit(address).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    pack = GitPack(
        folder=_checked_folder(folder, where),
        url=address,
        commit=str(commit),
        required=options.get("required", True),
    )
    return pack, disabled


def _registry_pack(name: str, entry: Any) -> tuple[Pack, bool]:
    where = f"cnr_custom_nodes.{name}"
    given = {"version": entry} if isinstance(entry, str) else entry
    options = _options(where, given, {"version", "sha256"})
    version = options.get("version")
    if not (isinstance(version, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,63}", version)):
        raise PackManifestError("not_pinned", where, 'must be a version, for example "1.2.3"')
    digest = options.get("sha256")
    if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest.lower())):
        raise PackManifestError("invalid_entry", f"{where}.sha256", "must be 64 hex digits")
    pack = RegistryPack(
        folder=_checked_folder(name, where),
        version=version,
        sha256=digest.lower() if digest else None,
        required=options.get("required", True),
    )
    return pack, options.get("disabled", False)


def _file_pack(entry: Any) -> tuple[Pack, bool]:
    where = "file_custom_nodes"
    options = _options(where, entry, {"filename"})
    name = options.get("filename")
    if not isinstance(name, str):
        raise PackManifestError("invalid_entry", where, "missing filename")
    disabled = options.get("disabled", False) or name.endswith(".disabled")
    name = name.removesuffix(".disabled")
    if not name.endswith(".py"):
        raise PackManifestError("invalid_entry", f"{where}.{name}", "must be a .py file")
    folder = _checked_folder(name, f"{where}.{name}")
    return FilePack(folder=folder, required=options.get("required", True)), disabled


def _checked_folder(name: str, where: str) -> str:
    if not _FOLDER.fullmatch(name):
        raise PackManifestError("invalid_entry", where, f"{name!r} is not a valid folder name")
    return name


def _check_duplicates(packs: tuple[Pack, ...]) -> None:
    seen: set[str] = set()
    for pack in packs:
        if pack.folder.lower() in seen:
            raise PackManifestError(
                "duplicate_pack", pack.folder, "two packs have the same folder; remove one"
            )
        seen.add(pack.folder.lower())


def https_url(url: str, where: str) -> str:
    """The https URL of a repository. ``git@host:owner/name`` and ``ssh://`` become https, because
    an image build has tokens, not ssh keys.

    Raises:
        PackManifestError: ``credentials_in_url``, ``unsupported_url``.
    """
    scp = _SCP.fullmatch(url)
    if scp and "://" not in url:
        return f"https://{scp['host']}/{scp['path']}"
    try:
        parts = urlsplit(url)
    except ValueError:  # for example invalid brackets
        parts = SplitResult("", "", "", "", "")
    if not url.isprintable() or " " in url:
        raise PackManifestError(
            "unsupported_url", where, "the URL must not contain spaces or line breaks"
        )
    if parts.scheme == "ssh" and parts.hostname:
        return f"https://{parts.hostname}{parts.path}"
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise PackManifestError(
            "unsupported_url", where, "the URL must start with https:// or git@host:"
        )
    if parts.username or parts.password:
        raise PackManifestError(
            "credentials_in_url",
            where.replace(parts.netloc, parts.hostname),
            "the URL must not contain credentials; use a secret (deploy.build_secrets)",
        )
    return url.rstrip("/")


def _pips(table: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The requirements to install, and those to skip. ``name`` maps to a URL, ``name==1.2`` to
    nothing."""
    taken: list[str] = []
    skipped: list[str] = []
    for name, address in table.items():
        text = f"{name} @ {address}" if address else name
        local = name.startswith(("-", "#")) or str(address or "").startswith("file:")
        (skipped if local else taken).append(text)
    return tuple(taken), tuple(skipped)
