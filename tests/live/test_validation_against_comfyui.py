"""comfysnap's validation agrees with a real ComfyUI's on valid and on broken graphs."""

import copy
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_schema.comfy.graph import Graph, parse_graph
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format
from comfysnap_schema.comfy.validation import Issue, Verdict, fits, judge_graph
from comfysnap_schema.wire.errors import GraphError
from tests.live.random_graphs import FILES
from tests.live.real_comfyui import RealComfy
from tests.live.validation_agreement import compare
from tests.paths import ROOT

pytestmark = pytest.mark.comfyui

TEMPLATES = "comfyui_workflow_templates_json"
MUTATED = 300
RANDOM = 1500
FILE_NAME = re.compile(
    r"^[^{}\n\"]{1,200}\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx|png|jpe?g|webp|gif|mp4|webm|mov|"
    r"wav|mp3|flac|ogg|glb|gltf|obj)$",
    re.IGNORECASE,
)


def samples() -> dict[str, Any]:
    """Parsed workflow files by name: this project's, real exports, official templates."""
    shared = Path(os.environ.get("COMFYSNAP_SHARED", ROOT.parent / "shared"))
    files = [*ROOT.glob("workflows/*/graph.json"), *shared.glob("workflows/*.json")]
    spec = find_spec(TEMPLATES)
    if spec and spec.submodule_search_locations:
        files += Path(spec.submodule_search_locations[0]).glob("templates/*.json")
    return {
        f"{file.parent.name}/{file.name}": json.loads(file.read_text("utf-8"))
        for file in sorted(files)
    }


def file_names(data: Any) -> Iterator[str]:
    """Everything in a workflow that names a model or media file."""
    if isinstance(data, str) and FILE_NAME.match(data):
        yield data.removesuffix(" [input]")
    elif isinstance(data, dict):
        for item in cast("dict[str, Any]", data).values():
            yield from file_names(item)
    elif isinstance(data, list):
        for item in cast("list[Any]", data):
            yield from file_names(item)


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    return samples()


@pytest.fixture(scope="module")
def comfy(files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealComfy]:
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH names no ComfyUI")
    names = sorted({*FILES, *(name for data in files.values() for name in file_names(data))})
    comfy = RealComfy(tmp_path_factory.mktemp("comfy"), names)
    yield comfy
    comfy.close()


@pytest.fixture(scope="module")
def graphs(files: dict[str, Any], comfy: RealComfy) -> dict[str, Graph]:
    """The samples that consist of this ComfyUI's classes."""
    found: dict[str, Graph] = {}
    for name, data in files.items():
        try:
            found[name] = (
                import_ui(data, comfy.catalogue) if is_ui_format(data) else parse_graph(data)
            )
        except GraphError:
            continue
    return found


def ours(graph: Graph, comfy: RealComfy) -> Verdict:
    verdict = judge_graph(graph, comfy.catalogue, check_models=True)
    assert verdict == judge_graph(graph, comfy.catalogue, check_models=True)
    return verdict


def known_to(comfy: RealComfy, graph: Graph, found: Issue) -> bool:
    """Whether this ComfyUI checks such a thing at all: any choice passes where a class wrote a
    tuple for a list, and with older ones where it uses the newer encoding."""
    if found.code != "value_not_in_list":
        return True
    assert found.node is not None
    assert found.input is not None
    class_type = graph[found.node]["class_type"]
    if (class_type, found.input) in comfy.tuples:
        return False
    return (
        comfy.checks_new_combos or comfy.catalogue[class_type].inputs[found.input].choices_in_type
    )


def difference(graph: Graph, comfy: RealComfy) -> str | None:
    """The difference between the two results, or None."""
    verdict = ours(graph, comfy)
    theirs = comfy.validate(copy.deepcopy(graph))
    found = [each for each in verdict.issues if known_to(comfy, graph, each)]
    kind = theirs["error"]["type"] if theirs["error"] else None
    codes = {each.code for each in found}
    if kind in ("invalid_prompt", "missing_node_type", "prompt_no_outputs"):
        expected = {"prompt_no_outputs"} if kind == "prompt_no_outputs" else {"missing_node_type"}
        return None if expected <= codes and not verdict.accepted else f"{kind}: {found}"
    if "dependency_cycle" in codes:
        # ComfyUI hits Python's recursion limit, which also fails valid nodes
        run = {node for node, good in verdict.outputs.items() if good}
        return None if run >= set(theirs["outputs"]) else f"they accept a cycle: {found}"
    if len(found) == len(verdict.issues):
        runs = sorted(node for node, good in verdict.outputs.items() if good)
        if runs != theirs["outputs"]:
            return f"they run {theirs['outputs']}, we {runs}: {found} / {theirs['node_errors']}"
    mine = {(each.node, each.input, each.code) for each in found}
    exceptions = {
        node
        for node, errors in theirs["node_errors"].items()
        if any(code.startswith("exception_during") for code, _ in errors)
    }
    real = {
        (node, name, code)
        for node, errors in theirs["node_errors"].items()
        for code, name in errors
        if node not in exceptions
    }
    rest = {each for each in mine if each[0] not in exceptions}
    if rest != real or exceptions - {each[0] for each in mine}:
        return f"comfysnap: {sorted(mine, key=str)}, ComfyUI: {theirs['node_errors']}"
    return None


def test_real_graphs_get_the_same_verdict(graphs: dict[str, Graph], comfy: RealComfy) -> None:
    differing = {
        name: found for name, graph in graphs.items() if (found := difference(graph, comfy))
    }
    assert differing == {}
    assert sum(not ours(graph, comfy).issues for graph in graphs.values()) >= 5


@dataclass(frozen=True)
class Place:
    """A random input of a node that an output depends on."""

    node: str
    name: str


def places(graph: Graph, comfy: RealComfy, suits: Callable[[Any, Any], bool]) -> list[Place]:
    """Inputs of needed nodes whose definition and value match a condition."""
    found: list[Place] = []
    for node in needed(graph, comfy):
        values = graph[node]["inputs"]
        for name, definition in comfy.catalogue[graph[node]["class_type"]].expand(values).items():
            if name in values and suits(definition, values[name]):
                found.append(Place(node, name))
    return found


def needed(graph: Graph, comfy: RealComfy, start: str | None = None) -> list[str]:
    """The nodes that the outputs, or ``start``, depend on, including themselves."""
    outputs = [node for node in graph if comfy.catalogue[graph[node]["class_type"]].output_node]
    stack = outputs if start is None else [start]
    seen: dict[str, None] = {}
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            declared = comfy.catalogue[graph[node]["class_type"]].inputs
            stack += [
                str(value[0])
                for name, value in graph[node]["inputs"].items()
                if name in declared and isinstance(value, list)
            ]
    return list(seen)


def out_of_range(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    found = places(graph, comfy, lambda d, v: d.maximum is not None and not isinstance(v, list))
    if not found:
        return False
    place = chance.choice(found)
    definition = comfy.catalogue[graph[place.node]["class_type"]].inputs[place.name]
    bounds = [(definition.maximum, 1), (definition.minimum, -1)]
    bound = chance.choice([bound + step for bound, step in bounds if bound is not None])
    graph[place.node]["inputs"][place.name] = bound
    return True


def choice_gone(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    found = places(
        graph, comfy, lambda d, v: d.choices_in_type and not d.upload and not isinstance(v, list)
    )
    if not found:
        return False
    place = chance.choice(found)
    graph[place.node]["inputs"][place.name] = "gone.safetensors"
    return True


def wrong_type(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    found = places(graph, comfy, lambda _, v: isinstance(v, list))
    chance.shuffle(found)
    for place in found:
        definition = comfy.catalogue[graph[place.node]["class_type"]].inputs[place.name]
        others = [
            (node, slot)
            for node in graph
            for slot, made in enumerate(comfy.catalogue[graph[node]["class_type"]].outputs)
            if not fits(made, definition)
        ]
        if others:
            graph[place.node]["inputs"][place.name] = [*chance.choice(others)]
            return True
    return False


def input_removed(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    found = places(graph, comfy, lambda d, _: d.required)
    if not found:
        return False
    place = chance.choice(found)
    del graph[place.node]["inputs"][place.name]
    return True


def cycle(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    """Link a node to one that depends on it."""
    pairs = [
        (Place(node, name), later, slot)
        for later in needed(graph, comfy)
        for slot, made in enumerate(comfy.catalogue[graph[later]["class_type"]].outputs)
        for node in needed(graph, comfy, later)
        for name, definition in comfy.catalogue[graph[node]["class_type"]].inputs.items()
        if definition.type == made.type and not definition.choices_in_type
    ]
    if not pairs:
        return False
    place, later, slot = chance.choice(pairs)
    graph[place.node]["inputs"][place.name] = [later, slot]
    return True


def unknown_class(graph: Graph, comfy: RealComfy, chance: random.Random) -> bool:
    graph[chance.choice(list(graph))]["class_type"] = "NoSuchNode"
    return True


MUTATIONS: list[Callable[[Graph, RealComfy, random.Random], bool]] = [
    out_of_range,
    choice_gone,
    wrong_type,
    input_removed,
    cycle,
    unknown_class,
]


def test_broken_graphs_get_the_same_verdict(graphs: dict[str, Graph], comfy: RealComfy) -> None:
    chance = random.Random(20251012)
    good = [name for name in sorted(graphs) if not ours(graphs[name], comfy).issues]
    differing: dict[str, str] = {}
    made: Counter[str] = Counter()
    for number in range(MUTATED):
        mutate = MUTATIONS[number % len(MUTATIONS)]
        name, graph = chance.choice(good), Graph()
        for _ in range(50):
            name = chance.choice(good)
            graph = copy.deepcopy(graphs[name])
            if mutate(graph, comfy, chance):
                break
        else:
            pytest.fail(f"no graph to try {mutate.__name__} on")
        made[mutate.__name__] += 1
        assert ours(graph, comfy).issues, (mutate.__name__, name)
        found = difference(graph, comfy)
        if found:
            differing[f"{number} {mutate.__name__} {name}"] = found
    assert differing == {}
    assert made.total() == MUTATED


def test_random_graphs_get_the_same_verdict_codes_and_inputs(comfy: RealComfy) -> None:
    if not comfy.names_cycles:
        pytest.skip("an older release, with other rules for cycles and links")
    tally = compare(comfy, RANDOM, seed=20260813)
    assert tally.others == []
    assert len(tally.classes) >= 150
    assert tally.accepted >= RANDOM // 4
    assert {code for code, count in tally.codes.items() if count} >= {
        "bad_linked_input", "dependency_cycle", "invalid_input_type", "missing_node_type",
        "prompt_no_outputs", "required_input_missing", "return_type_mismatch",
        "value_bigger_than_max", "value_not_in_list", "value_smaller_than_min",
    }  # fmt: skip
