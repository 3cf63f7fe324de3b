"""Compares our reading of group nodes with an editor that made and ran them.

    uv run --with playwright --with comfyui-frontend-package==1.27.10 \\
        python -m tests.schema.comfy.ui_export.against_older_editor OBJECT_INFO TEMPLATES

OBJECT_INFO is the ``/object_info`` of ComfyUI 0.3.64, whose editor this is, and TEMPLATES a folder
of its templates. The editor makes a group node of some nodes of each, with other values; the graph
that it sends is compared with ours of what it saves. Exits 1 when they differ. Links that the
editor loses, and values of its own widgets, do not count.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format
from comfysnap_schema.comfy.ui_export.model import PRIMITIVE, as_list, as_object
from comfysnap_schema.wire.errors import UiFormatError
from tests.schema.comfy.ui_export.editor import GROUP, Json, missing, open_editor

_UNGROUPED: Final = {"Note", "MarkdownNote", "Reroute", PRIMITIVE}
"""In groups of many inputs the editor gives values of primitives to other inputs."""


def different(ours: Any, theirs: Json) -> Iterator[str]:
    """One line for each node or input that differs."""
    for node in sorted(ours.keys() | theirs.keys()):
        if node not in ours or node not in theirs:
            yield f"node {node} is only in {'the editor' if node in theirs else 'our'} graph"
            continue
        mine, other = ours[node]["inputs"], theirs[node]["inputs"]
        for name, value in other.items():
            lost = value in (None, "") or str(value) == "nan"
            if not lost and mine.get(name) != value:
                yield f"node {node}: {name} is {mine.get(name)!r:.80}, the editor's {value!r:.80}"


def main(arguments: list[str]) -> int:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path)
    parser.add_argument("templates", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    reason = missing()
    if reason is not None:
        print(reason)
        return 2
    object_info: Any = json.loads(options.object_info.read_text())
    catalogue = Catalogue.parse(object_info)
    rand = random.Random(options.seed)
    counts: Counter[str] = Counter()
    with open_editor(object_info, GROUP) as ask:
        for file in sorted(options.templates.glob("*.json")):
            data: Any = json.loads(file.read_text("utf-8"))
            ids = _some_nodes(data, catalogue, rand)
            if ids is None:
                continue
            try:
                answer = ask([data, ids, "My group"])
            except import_module("playwright.sync_api").Error:
                counts["not made"] += 1
                continue
            counts[_compared(file.stem, answer, catalogue)] += 1
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["different"] else 0


def _some_nodes(data: Any, catalogue: Catalogue, rand: random.Random) -> list[Any] | None:
    if not is_ui_format(data) or as_list(as_object(data.get("definitions")).get("subgraphs")):
        return None
    nodes = [node for node in data["nodes"] if node["type"] not in _UNGROUPED]
    if len(nodes) < 3 or any(catalogue.get(node["type"]) is None for node in nodes):
        return None
    return [node["id"] for node in rand.sample(nodes, rand.randint(2, len(nodes) - 1))]


def _compared(name: str, answer: Json, catalogue: Catalogue) -> str:
    try:
        ours = import_ui(answer["saved"], catalogue)
    except UiFormatError as error:
        print(f"refused    {name}: {error.message}")
        return "refused"
    lines = list(different(ours, answer["graph"]))
    for line in lines:
        print(f"different  {name}: {line}")
    return "different" if lines else "same"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
