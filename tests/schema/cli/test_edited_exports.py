"""``comfysnap update`` on real exports, each edited in ten ways.

The exports are in ``../shared``; without them these tests are skipped.
"""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy import InputPath, is_link
from comfysnap_schema.comfy.graph import parse_graph
from comfysnap_schema.propose import propose, write_workflow
from comfysnap_schema.workflow import read_spec
from tests.schema.conftest import comfysnap

pytestmark = pytest.mark.shared

Graph = dict[str, dict[str, Any]]
Ids = Mapping[str, str]
Edit = Callable[[Graph, random.Random], tuple[Graph, Ids]]
LATENTS = {"EmptyLatentImage": "EmptySD3LatentImage", "EmptySD3LatentImage": "EmptyLatentImage"}
LOADERS = {"CheckpointLoaderSimple", "UNETLoader"}


def with_ids(graph: Graph, ids: Ids) -> tuple[Graph, Ids]:
    def moved(value: Any) -> Any:
        if not is_link(value):
            return value
        node, slot = value
        return [ids[node], slot]

    found = {
        ids[node]: {**entry, "inputs": {k: moved(v) for k, v in entry["inputs"].items()}}
        for node, entry in graph.items()
    }
    return found, ids


def renumbered(graph: Graph, rand: random.Random) -> tuple[Graph, Ids]:
    names = map(str, rand.sample(range(500), len(graph)))
    return with_ids(graph, dict(zip(graph, names, strict=True)))


def shuffled(graph: Graph, rand: random.Random) -> tuple[Graph, Ids]:
    """The ids that were there before, in another order."""
    return with_ids(graph, dict(zip(graph, rand.sample([*graph], len(graph)), strict=True)))


def same(graph: Graph, rand: random.Random) -> tuple[Graph, Ids]:
    return graph, {node: node for node in graph}


def titled(graph: Graph, rand: random.Random) -> None:
    for number, entry in enumerate(graph.values()):
        entry["_meta"] = {"title": f"Renamed {number}"}


def valued(graph: Graph, rand: random.Random) -> None:
    for entry in graph.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                entry["inputs"][name] = value + 1


def reordered(graph: Graph, rand: random.Random) -> None:
    nodes = rand.sample([*graph.items()], len(graph))
    graph.clear()
    graph.update(nodes)


def with_a_lora(graph: Graph, rand: random.Random) -> None:
    for loader in [node for node, entry in graph.items() if entry["class_type"] in LOADERS][:1]:
        for entry in graph.values():
            for name, value in entry["inputs"].items():
                if value == [loader, 0]:
                    entry["inputs"][name] = ["lora", 0]
        lora = {"model": [loader, 0], "lora_name": "x.safetensors", "strength_model": 1.0}
        graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}


def replaced(graph: Graph, rand: random.Random) -> None:
    for entry in graph.values():
        entry["class_type"] = LATENTS.get(entry["class_type"], entry["class_type"])


EDITS: dict[str, tuple[Edit, list[Callable[[Graph, random.Random], None]]]] = {
    "renumbered": (renumbered, []),
    "shuffled": (shuffled, []),
    "renamed": (same, [titled]),
    "renumbered and renamed": (renumbered, [titled, reordered]),
    "shuffled with other values": (shuffled, [valued]),
    "renumbered and renamed with other values": (renumbered, [titled, valued]),
    "with another node": (same, [with_a_lora]),
    "renumbered with another node": (renumbered, [with_a_lora]),
    "with another class": (same, [replaced]),
    "renumbered and renamed with another class": (renumbered, [titled, replaced]),
}


def places(folder: Path) -> dict[str, list[str]]:
    """The places of each input and output."""
    spec = read_spec(folder / "workflow.toml")
    paths = {name: entry.path for name, entry in spec.inputs.items()}
    found = {name: [p] if isinstance(p, str) else list(p or ()) for name, p in paths.items()}
    return found | {f"outputs.{name}": [entry.node] for name, entry in spec.outputs.items()}


def moved(place: str, ids: Ids) -> str:
    if ".inputs." not in place:
        return ids[place]
    path = InputPath.parse(place)
    return str(InputPath(ids[path.node], path.name))


@pytest.mark.parametrize("edit", EDITS)
def test_every_place_of_an_edited_export_is_found_or_nothing_is_written(
    edit: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = sorted((shared / "workflows").glob("*.json"))
    assert len(exports) >= 10
    found = 0
    for number, file in enumerate(exports):
        project = tmp_path / file.stem
        folder = project / "workflows" / "mine"
        graph: Any = parse_graph(json.loads(file.read_text()))
        write_workflow(folder, graph, propose(graph, None, name="mine"), None)
        before, text = places(folder), (folder / "workflow.toml").read_bytes()
        change, more = EDITS[edit]
        edited, ids = change(json.loads(json.dumps(graph)), rand := random.Random(number))
        for each in more:
            each(edited, rand)
        (project / "export.json").write_text(json.dumps(edited))
        monkeypatch.chdir(project)
        code, output = comfysnap("update", "mine", "export.json")
        if code == 0:
            found += 1
            wanted = {name: [moved(p, ids) for p in paths] for name, paths in before.items()}
            assert places(folder) == wanted, file.stem
        else:
            assert "unsure: " in output, file.stem
            assert (folder / "workflow.toml").read_bytes() == text, file.stem
    assert found >= len(exports) - 1
