"""``[deploy.volumes]`` and ``[[deploy.mounts]]``, and the paths in a container."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel

from comfysnap_schema.workflow import setting_error
from comfysnap_server.deploy.settings.values import ObjectName

COMFYUI_DIR: Final = "/comfyui"
MODELS_DIR: Final = "/models"
MODEL_CACHE_DIR: Final = "/model-cache"
FILES_DIR: Final = "/files"
PROJECT_DIR: Final = "/project"
"""Paths in a container: ComfyUI, the volumes, the project."""


def _mount_point(text: str) -> str:
    # PurePosixPath keeps two leading slashes as another root
    path = PurePosixPath("/" + text.lstrip("/")) if text.startswith("/") else PurePosixPath(text)
    if not path.is_absolute() or {"..", "\0"} & {*path.parts, *text} or len(path.parts) < 2:
        raise setting_error("invalid_mount", "must be an absolute path below /")
    return str(path)


class VolumeNames(BaseModel, frozen=True, extra="forbid"):
    """``[deploy.volumes]``: names of volumes."""

    models: ObjectName | None = None
    """Volume with the models. None: ``<name>-models``."""
    files: ObjectName | None = None
    """Volume with the files of jobs. None: ``<name>-files``."""


class Mount(BaseModel, frozen=True, extra="forbid"):
    """``[[deploy.mounts]]``: another volume in the GPU containers."""

    volume: ObjectName
    """Name of the volume; it must exist."""
    path: Annotated[str, AfterValidator(_mount_point)]
    """Where it is mounted: an absolute path that overlaps no other."""
    read_only: bool = True
    """Whether node packs cannot write to it."""


def check_mounts(mounts: Iterable[Mount]) -> None:
    """Raise a setting error if mounts overlap each other or the paths of the container."""
    taken = [COMFYUI_DIR, MODELS_DIR, MODEL_CACHE_DIR, FILES_DIR, PROJECT_DIR]
    for mount in mounts:
        inside = [path for path in taken if _overlap(mount.path, path)]
        if inside:
            raise setting_error(
                "mount_conflict",
                f"{mount.path} overlaps {inside[0]}; mount {mount.volume!r} elsewhere, for "
                f"example at /mnt/{mount.volume}",
            )
        taken.append(mount.path)


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
