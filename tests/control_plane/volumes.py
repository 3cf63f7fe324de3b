"""Volumes: a folder for each, and a view of it in each container that mounts it."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.control_plane.rpc import not_found, unary
from tests.control_plane.state import State

if TYPE_CHECKING:
    from tests.control_plane.containers import Container


FOLDER_DESCRIPTOR = 200
"""File descriptor of each container's own folder, in its process."""


@dataclass
class View:
    """A volume in a container: its own writes, and others' commits as of its last reload."""

    folder: Path
    synced: set[str] = field(default_factory=set[str])
    """Files of the volume as of the last commit or reload."""


class Volumes:
    """The committed content of every volume, by id."""

    def __init__(self, root: Path, mounts: Path) -> None:
        self.root = root
        self.mounts = mounts
        """Only mount paths in this folder are mounted."""

    def committed(self, volume_id: str) -> Path:
        """Folder with the committed files."""
        folder = self.root / volume_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def mount(
        self, volume_id: str, mount_path: str, folder: Path, *, anywhere: bool
    ) -> View | None:
        """Create a container's view.

        Args:
            volume_id: The volume.
            mount_path: Gets a link to the view, if it is in ``mounts``.
            folder: The container's own folder, which holds the view.
            anywhere: Whether any mount path works, because the container has a root folder.
        """
        path = Path(mount_path)
        if not anywhere:
            if not path.is_relative_to(self.mounts):
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_symlink():
                path.symlink_to(f"/proc/self/fd/{FOLDER_DESCRIPTOR}/volumes/{volume_id}")
        view = View(folder / "volumes" / volume_id)
        view.folder.mkdir(parents=True)
        self.reload(volume_id, view)
        return view

    def reload(self, volume_id: str, view: View) -> None:
        """Update a view with the commits of others."""
        committed = self.committed(volume_id)
        present = _files(committed)
        for name in present:
            _link(committed / name, view.folder / name)
        for name in view.synced - present:
            (view.folder / name).unlink(missing_ok=True)
        view.synced = present

    def commit(self, volume_id: str, view: View) -> None:
        """Commit the writes in a view to the volume."""
        committed = self.committed(volume_id)
        present = _files(view.folder)
        for name in present:
            _link(view.folder / name, committed / name)
        for name in view.synced - present:
            (committed / name).unlink(missing_ok=True)
        view.synced = present


class VolumeCalls:
    """Answers ``modal.Volume``; commit and reload are for the container that calls."""

    def __init__(self, state: State, volumes: Volumes, container: "Container | None") -> None:
        self._state = state
        self._volumes = volumes
        self._container = container

    @unary
    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest
    ) -> api_pb2.VolumeGetOrCreateResponse:
        self._state.requests["VolumeGetOrCreate"].append(request)
        exists = ("vo", request.deployment_name) in self._state.named
        if not exists and request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise not_found(f"no volume {request.deployment_name!r}")
        only_new = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
        if exists and request.object_creation_type == only_new:
            raise GRPCError(Status.ALREADY_EXISTS, f"volume {request.deployment_name!r} exists")
        volume_id = self._state.named_id("vo", request.deployment_name)
        if not exists and request.version:
            self._state.volume_versions[volume_id] = request.version
        version = self._state.volume_version(volume_id)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume_id,
            version=version,
            metadata=api_pb2.VolumeMetadata(name=request.deployment_name, version=version),
        )

    @unary
    async def VolumeCommit(
        self, request: api_pb2.VolumeCommitRequest
    ) -> api_pb2.VolumeCommitResponse:
        view = self._view(request.volume_id)
        if view is not None:
            self._volumes.commit(request.volume_id, view)
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    @unary
    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        view = self._view(request.volume_id)
        if view is not None and self._container is not None:
            if _has_open_file(self._container.pid, view.folder):
                raise GRPCError(
                    Status.FAILED_PRECONDITION, "there are open files preventing the operation"
                )
            self._volumes.reload(request.volume_id, view)
        return Empty()

    def _view(self, volume_id: str) -> View | None:
        if self._container is None:
            raise not_found("not called by a container")
        return self._container.views.get(volume_id)


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # a copy, because a container can write to a file after it committed it
    partial = target.with_name(f".{target.name}.partial")
    shutil.copy2(source, partial)
    if target.exists() and target.read_bytes() == partial.read_bytes():
        partial.unlink()
    else:
        partial.replace(target)


def _has_open_file(pid: int, folder: Path) -> bool:
    # by number, because paths of a process with a root folder of its own mean nothing here
    files = {_number(path) for path in folder.rglob("*") if path.is_file()}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if _number(descriptor) in files:
                return True
        except OSError:
            continue
    return False


def _number(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
