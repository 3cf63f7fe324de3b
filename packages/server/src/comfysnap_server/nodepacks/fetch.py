"""Fetches node packs into ``custom_nodes``: git commits, registry versions, single files."""

import shutil
from hashlib import sha256
from pathlib import Path

from comfysnap_server.nodepacks.git import fetch_git
from comfysnap_server.nodepacks.manifest import FilePack, GitPack, Pack, RegistryPack
from comfysnap_server.nodepacks.registry import fetch_version
from comfysnap_server.nodepacks.sources import PackFetchError, Sources


def fetch_pack(pack: Pack, custom_nodes: Path, sources: Sources) -> str:
    """Fetch one pack into its folder.

    An existing folder is updated to the pack's version if it came from the same kind of source
    and has no local changes; files that are not part of the pack stay. If it fails, a new folder
    is removed.

    Returns:
        The full commit of a git pack, else the SHA-256 of the archive or file.

    Raises:
        PackFetchError: Any of its codes.
    """
    target = custom_nodes / pack.folder
    existed = target.exists()
    try:
        if isinstance(pack, GitPack):
            return fetch_git(pack, target, sources)
        if isinstance(pack, RegistryPack):
            return fetch_version(pack, target, sources)
        return _copy_file(pack, target, sources)
    except BaseException:
        if not existed:
            remove(target)
        raise


def remove(target: Path) -> None:
    """Delete a pack's folder or file, if it exists."""
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def _copy_file(pack: FilePack, target: Path, sources: Sources) -> str:
    source = sources.files / pack.folder
    try:
        content = source.read_bytes()
        if target.exists() and target.read_bytes() != content:
            raise PackFetchError(
                "already_exists", f"{target} already exists with other content; move it away"
            )
        target.write_bytes(content)
    except OSError as error:
        raise PackFetchError("download_failed", str(error)) from error
    return sha256(content).hexdigest()
