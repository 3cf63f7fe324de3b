"""The models volume on Modal, looked at from outside: no container is started for it."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol, cast

from comfysnap_server.models.folder import OWN_FOLDER, Record


class ModelsPlace(Protocol):
    """Where models lie: a folder, or the volume."""

    def files(self) -> Mapping[PurePosixPath, int]:
        """Every file with its size, without our own."""
        ...

    def records(self) -> Mapping[str, Record]:
        """What is known of the files that a sync checked."""
        ...

    def remove(self, path: PurePosixPath) -> bool:
        """Delete a file; False when there is none."""
        ...


class ModelsVolume:
    """A volume by name; it is made when it is not there."""

    def __init__(self, name: str) -> None:
        import modal

        self._volume = modal.Volume.from_name(name, create_if_missing=True)

    def files(self) -> dict[PurePosixPath, int]:
        """Every file with its size, without our own."""
        from modal.types import FileEntryType

        return {
            path: entry.size
            for entry in self._volume.listdir("/", recursive=True)
            if entry.type == FileEntryType.FILE
            and (path := PurePosixPath(entry.path.lstrip("/"))).parts[0] != OWN_FOLDER
        }

    def records(self) -> dict[str, Record]:
        """What is known of the files that a sync checked."""
        try:
            text = b"".join(self._volume.read_file(f"{OWN_FOLDER}/record.json"))
        except FileNotFoundError:
            return {}
        data: Any = json.loads(text)
        return cast("dict[str, Record]", data)

    def remove(self, path: PurePosixPath) -> bool:
        """Delete a file; False when there is none."""
        if path not in self.files():
            return False
        self._volume.remove_file(str(path))
        return True
