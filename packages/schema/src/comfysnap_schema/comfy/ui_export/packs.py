"""The node packs that a UI export says its nodes are from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from comfysnap_schema.comfy.ui_export.model import UiNode

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


def unknown_classes(nodes: Mapping[str, UiNode]) -> dict[str, str]:
    """Node to why it cannot be converted and what would help, for nodes of classes that the
    catalogue lacks; the same words for all classes of one pack."""
    groups: dict[str, list[str]] = {}
    for name, node in nodes.items():
        pack = pack_of(node.properties)
        groups.setdefault((pack.id or pack.repo).lower() if pack else "", []).append(name)
    found: dict[str, str] = {}
    for names in groups.values():
        classes = dict.fromkeys(repr(nodes[name].type) for name in names)
        pack = next(packs_of((nodes[name].properties for name in names), own=True), None)
        what = f"unknown node class{'es' if len(classes) > 1 else ''} {', '.join(classes)}"
        found |= dict.fromkeys(names, f"{what}{_help(pack)}")
    return {name: found[name] for name in nodes}


def _help(pack: UsedPack | None) -> str:
    if pack is None:
        return ": not in the node catalogue; pass one of a ComfyUI that has it"
    version = f" {pack.version}" if pack.version else ""
    if pack.id == OWN_PACK:
        return (
            f", of ComfyUI{version} itself: the node catalogue is of another version; pass the"
            f" object_info of ComfyUI{version or ' at its newest'} or later"
        )
    repo = f"github.com/{pack.repo}" if pack.repo else ""
    where = f" ({repo})" if pack.id and repo else ""
    return (
        f", of the node pack {pack.id or repo}{version}{where}: pass the object_info of a ComfyUI"
        " that has this pack"
    )


def packs_of(properties: Iterator[dict[str, Any]], *, own: bool = False) -> Iterator[UsedPack]:
    """One entry for each pack, with the newest version that a node was saved with; with ``own``
    also for ComfyUI itself."""
    found: dict[str, UsedPack] = {}
    for node in properties:
        pack = pack_of(node)
        if pack is None or (pack.id.lower() == OWN_PACK and not own):
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
