"""Models that came to the models volume after a worker's container started."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from comfysnap_schema.comfy import Graph, is_model_name
from comfysnap_server.backends.modal.platform import SharedFolder
from comfysnap_server.jobs import REMOTE_FOLDER

log = logging.getLogger(__name__)

_REMOTE: Final = f"{REMOTE_FOLDER}/"
_LOOK_AGAIN_S: Final = 30.0
"""Before the volume is reloaded again for files that a reload did not bring: the files of ComfyUI's
own folders and of other mounts never lie on it."""


class NewModels:
    """Reloads the models volume when a job names a file that is not there: each reload takes a
    round trip, and Modal refuses it while a model file is open.

    Args:
        folder: The mounted models volume.
    """

    def __init__(self, folder: SharedFolder) -> None:
        self._folder = folder
        self._missing: dict[str, float] = {}
        """File name to the time of the last reload for it."""

    async def look_for(self, graph: Graph) -> None:
        """Make the files that a graph names visible, as far as they are on the volume."""
        names = set(_model_names(graph))
        missing = await asyncio.to_thread(self._not_found, names) if names else set[str]()
        for name in names - missing:
            self._missing.pop(name, None)
        now = time.monotonic()
        if all(now - self._missing.get(name, float("-inf")) < _LOOK_AGAIN_S for name in missing):
            return
        self._missing |= dict.fromkeys(missing, now)
        log.info("reloading the models volume for %s", ", ".join(sorted(missing)))
        try:
            await self._folder.reload()
        except Exception as error:  # the job then says which file ComfyUI does not find
            log.warning("the models volume could not be reloaded: %s", error)

    def _not_found(self, names: set[str]) -> set[str]:
        root = self._folder.root
        if not root.is_dir():
            return set()
        folders = [folder for folder in root.iterdir() if folder.is_dir()]
        return {name for name in names if not any(_is_in(folder, name) for folder in folders)}


def _model_names(graph: Graph) -> Iterator[str]:
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, str) and is_model_name(value) and not value.startswith(_REMOTE):
                yield value.replace("\\", "/")


def _is_in(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # no name of a file at all
        return False
