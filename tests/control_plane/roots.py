"""What an isolated container contains: uploaded files, volumes, and the image's packages."""

import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from modal_proto import api_pb2
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.control_plane.isolation import SYSTEM
from tests.control_plane.state import Function, State

PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", re.MULTILINE)
TEMP = "/tmp"  # noqa: S108, a path in the container
CLIENT = "modal"
"""Modal puts its client and what that needs into each container."""


def write_root(
    state: State, function: Function, folder: Path, volumes: Mapping[str, tuple[Path, bool]]
) -> Path:
    """Write the files of a container's root folder, and the plan for ``isolation.enter``.

    Args:
        state: Knows the uploaded files and the image.
        function: The function.
        folder: The container's folder.
        volumes: Mount path to the folder of its view, and whether it is read-only.

    Returns:
        Path of the plan.
    """
    root = folder / "root"
    for path, sha in _uploaded(state, function.definition):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(state.files[sha])
    (root / "root").mkdir(parents=True, exist_ok=True)
    interpreter = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), str(folder)}
    binds = {TEMP: str(folder / "tmp")}
    binds |= {path: path for path in [*SYSTEM, *sorted(interpreter)] if Path(path).is_dir()}
    binds |= {path: str(view) for path, (view, _) in volumes.items()}
    given = {
        "root": str(root),
        "binds": binds,
        "read_only": [path for path, (_, read_only) in volumes.items() if read_only],
        "blocked": sorted(_blocked(frozenset(_pinned(state, function.definition.image_id)))),
    }
    plan = folder / "root.json"
    plan.write_text(json.dumps(given))
    return plan


def _uploaded(state: State, definition: api_pb2.Function) -> Iterator[tuple[str, str]]:
    for mount_id in [definition.image_id, *definition.mount_ids]:
        for path, sha in state.mounts.get(mount_id, {}).items():
            if sha in state.files:
                yield path, sha


def _pinned(state: State, image_id: str) -> Iterator[str]:
    """Distributions in the requirement files of an image and its bases."""
    image = state.images.get(image_id)
    if image is None:
        return
    for base in image.base_images:
        yield from _pinned(state, base.image_id)
    for file in image.context_files:
        yield from (canonicalize_name(name) for name in PIN.findall(file.data.decode()))


@cache
def _blocked(pinned: frozenset[str]) -> frozenset[str]:
    """Top-level modules of this environment that the image lacks; none for an image without
    requirement files."""
    if not pinned:
        return frozenset()
    allowed = pinned | _with_dependencies([CLIENT])
    return frozenset(
        module
        for module, names in packages_distributions().items()
        if not any(canonicalize_name(name) in allowed for name in names)
    )


def _with_dependencies(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        wanted = map(Requirement, lines)
        todo += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found
