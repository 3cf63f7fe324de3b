"""The node packs that a UI export says its nodes are from."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from comfysnap_schema.comfy.ui_export.model import UiNode
from comfysnap_schema.comfy.ui_export.widgets import ConversionError

OWN_PACK: Final = "comfy-core"
"""The id of ComfyUI's own nodes."""


@dataclass(frozen=True, kw_only=True)
class UsedPack:
    """A node pack whose nodes are used."""

    id: str
    """In the Comfy registry; empty when the pack is not in it."""
    repo: str
    """``owner/name`` at GitHub, where the export has it."""
    version: str
    """A version of the registry or a commit."""


def pack_of(properties: dict[str, Any]) -> UsedPack | None:
    """The pack in the properties of a node; None when they name none."""
    name, repo, version = (properties.get(key) for key in ("cnr_id", "aux_id", "ver"))
    pack = UsedPack(
        id=name if isinstance(name, str) else "",
        repo=repo if isinstance(repo, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", repo) else "",
        version=version if isinstance(version, str) else "",
    )
    return pack if pack.id or pack.repo else None


def unknown_class(node: UiNode) -> ConversionError:
    """Why a node of a class that the catalogue lacks cannot be converted, and what would help."""
    what = f"unknown node class {node.type!r}"
    pack = pack_of(node.properties)
    if pack is None:
        return ConversionError(
            "unknown_node", f"{what}: not in the node catalogue; pass one of a ComfyUI that has it"
        )
    version = f" {pack.version}" if pack.version else ""
    if pack.id == OWN_PACK:
        return ConversionError(
            "unknown_node",
            f"{what}, of ComfyUI{version} itself: the node catalogue is of another version; pass"
            f" the object_info of ComfyUI{version or ' at its newest'} or later",
        )
    repo = f"github.com/{pack.repo}" if pack.repo else ""
    where = f" ({repo})" if pack.id and repo else ""
    return ConversionError(
        "unknown_node",
        f"{what}, of the node pack {pack.id or repo}{version}{where}: pass the object_info of a"
        " ComfyUI that has this pack",
    )


def packs_of(properties: Iterator[dict[str, Any]]) -> Iterator[UsedPack]:
    """One entry for each pack, with the newest version that a node was saved with."""
    found: dict[str, UsedPack] = {}
    for node in properties:
        pack = pack_of(node)
        if pack is None or pack.id.lower() == OWN_PACK:
            continue
        key = (pack.id or pack.repo).lower()
        if key not in found or _order(pack.version) > _order(found[key].version):
            found[key] = pack
    yield from found.values()


def _order(version: str) -> tuple[bool, tuple[int, ...]]:
    """Versions of the registry in their order, after commits."""
    numbers = re.match(r"v?(\d+(?:\.\d+)+)", version)
    parts = tuple(int(part) for part in numbers[1].split(".")) if numbers else ()
    return bool(parts), parts
