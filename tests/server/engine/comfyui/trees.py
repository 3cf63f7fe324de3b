"""Checkouts of the ComfyUI-shaped tree, one release each (``tests/comfyui_tree/README.md``)."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tests.paths import ROOT

TREE: Final = ROOT / "tests" / "comfyui_tree"
PACKS: Final = TREE / "packs"
LATEST: Final = "0.33.0"
"""The release of ``TREE`` itself, for tests that do not depend on the release."""
RELEASES: Final = ("0.3.64", LATEST, "0.38.0")
_NOT_OF_A_CHECKOUT: Final = ("README.md", "output", "packs", "releases", "__pycache__")
_LATER: Final = {
    "0.3.64": {
        "app", "comfy_aimdo", "comfy_kitchen", "latent_preview.py", "memory_management.py",
        "mime_types.py", "tree_recent_arguments.py", "tree_recent_execution.py",
    },
}  # fmt: skip
"""Per release, names of files and folders that later releases added."""


def build_tree(release: str, folder: Path) -> Path:
    """Create a checkout of a release in ``folder``, which may exist."""
    later: Collection[str] = _LATER.get(release, ())
    ignore = shutil.ignore_patterns(*_NOT_OF_A_CHECKOUT, *later)
    shutil.copytree(TREE, folder, ignore=ignore, dirs_exist_ok=True)
    if release != LATEST:
        ignore = shutil.ignore_patterns("__pycache__")
        own = TREE / "releases" / release
        shutil.copytree(own, folder, ignore=ignore, dirs_exist_ok=True)
    return folder
