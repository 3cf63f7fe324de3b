"""LoRAs as a list parameter: where they go, their names and bounds."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
import pytest
from pydantic import ValidationError

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.models import Lora
from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow import Workflow, check_workflow, examples
from tests.schema.conftest import MakeWorkflow

NODES: dict[str, Any] = {
    "Checkpoint": {
        "input": {"required": {"ckpt_name": [["sd.safetensors"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
    },
    "Unet": {"input": {"required": {}}, "output": ["MODEL"]},
    "Clip": {"input": {"required": {}}, "output": ["CLIP"]},
    "Text": {
        "input": {"required": {"clip": ["CLIP"], "text": ["STRING"]}},
        "output": ["CONDITIONING"],
    },
    "Shift": {"input": {"required": {"model": ["MODEL"]}}, "output": ["MODEL"]},
    "Draw": {
        "input": {"required": {"model": ["MODEL"], "positive": ["CONDITIONING"]}},
        "output": ["IMAGE"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}
GRAPH: dict[str, Any] = {
    "4": {"class_type": "Checkpoint", "inputs": {"ckpt_name": "sd.safetensors"}},
    "5": {"class_type": "Shift", "inputs": {"model": ["4", 0]}},
    "6": {"class_type": "Text", "inputs": {"clip": ["4", 1], "text": "a fox"}},
    "7": {"class_type": "Draw", "inputs": {"model": ["5", 0], "positive": ["6", 0]}},
    "8": {"class_type": "Draw", "inputs": {"model": ["4", 0], "positive": ["6", 0]}},
    "9": {"class_type": "Save", "inputs": {"images": ["7", 0]}},
    "10": {"class_type": "Save", "inputs": {"images": ["8", 0]}},
}
APART: dict[str, Any] = {
    **GRAPH,
    "4": {"class_type": "Unet", "inputs": {}},
    "11": {"class_type": "Clip", "inputs": {}},
    "6": {"class_type": "Text", "inputs": {"clip": ["11", 0], "text": "a fox"}},
}
LISTED = {
    "LoraLoader": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "clip": ["CLIP"],
                "lora_name": [["style\\ink.safetensors", "detail.safetensors"]],
                "strength_model": ["FLOAT"],
                "strength_clip": ["FLOAT"],
            }
        },
        "output": ["MODEL", "CLIP"],
    }
}


def spec(keys: str, more: str = "") -> str:
    outputs = '[outputs.one]\nnode = "9"\n[outputs.two]\nnode = "10"\n'
    return f'name = "small"\n[inputs.loras]\ntype = "loras"\n{keys}\n{more}{outputs}'


@pytest.fixture
def load(make_workflow: MakeWorkflow) -> Callable[..., Workflow]:
    def load(
        keys: str = 'after = "4"',
        graph: Mapping[str, Any] = GRAPH,
        nodes: Mapping[str, Any] | None = NODES,
        more: str = "",
    ) -> Workflow:
        files = {} if nodes is None else {"nodes__json": json.dumps(nodes)}
        return Workflow.load(make_workflow(spec(keys, more), graph, **files))

    return load


Load = Callable[..., Workflow]


def test_no_loras_leave_the_graph_untouched(load: Load) -> None:
    workflow = load()
    assert workflow.complete({}) == {"loras": []}
    assert workflow.apply({"loras": []}) == GRAPH
    assert workflow.apply({}) == GRAPH


def test_loras_are_chained_behind_the_loader_and_all_that_read_it_reads_the_last(
    load: Load,
) -> None:
    workflow = load()
    loras: list[Any] = [
        {"name": "a.safetensors", "strength": 0.5},
        {"name": "b.safetensors", "clip_strength": 0.25},
        {"name": "c.safetensors", "strength": 2, "clip_strength": None},
    ]
    graph = workflow.build(workflow.complete({"loras": loras}))
    assert [graph[f"loras:{index}"]["inputs"] for index in range(3)] == [
        {"model": ["4", 0], "clip": ["4", 1], "lora_name": "a.safetensors",
         "strength_model": 0.5, "strength_clip": 0.5},
        {"model": ["loras:0", 0], "clip": ["loras:0", 1], "lora_name": "b.safetensors",
         "strength_model": 1.0, "strength_clip": 0.25},
        {"model": ["loras:1", 0], "clip": ["loras:1", 1], "lora_name": "c.safetensors",
         "strength_model": 2, "strength_clip": 2},
    ]  # fmt: skip
    assert graph["5"]["inputs"] == {"model": ["loras:2", 0]}
    assert graph["6"]["inputs"] == {"clip": ["loras:2", 1], "text": "a fox"}
    assert graph["8"]["inputs"] == {"model": ["loras:2", 0], "positive": ["6", 0]}
    assert graph["7"] == GRAPH["7"]
    assert workflow.validate(graph) == []
    assert workflow.graph == GRAPH


def test_a_loader_without_clip_gets_loras_of_the_model_only(load: Load) -> None:
    workflow = load('after = "4"', APART)
    graph = workflow.apply({"loras": [{"name": "a.safetensors", "clip_strength": 0.5}]})
    assert graph["loras:0"] == {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["4", 0], "lora_name": "a.safetensors", "strength_model": 1.0},
        "_meta": {"title": "loras[0]"},
    }
    assert graph["6"] == APART["6"]
    assert workflow.validate(graph) == []


def test_the_clip_may_come_from_another_loader(load: Load) -> None:
    workflow = load('after = "4"\nclip_after = "11"', APART)
    graph = workflow.apply({"loras": [{"name": "a.safetensors"}]})
    assert graph["loras:0"]["class_type"] == "LoraLoader"
    assert graph["loras:0"]["inputs"]["clip"] == ["11", 0]
    assert graph["6"]["inputs"]["clip"] == ["loras:0", 1]
    assert graph["5"]["inputs"]["model"] == ["loras:0", 0]
    assert workflow.validate(graph) == []


def test_ids_of_added_nodes_are_those_of_no_node_of_the_graph(load: Load) -> None:
    graph = {**GRAPH, "loras:0": GRAPH["8"], "loras::7": GRAPH["8"]}
    workflow = load(graph=graph)
    built = workflow.apply({"loras": [{"name": "a"}]})
    assert built.keys() - graph.keys() == {"loras:::0"}
    assert workflow.fields["loras:::0.inputs.lora_name"] == "loras[0].name"


def test_two_lists_of_loras_after_one_loader_are_chained(load: Load) -> None:
    workflow = load(more='[inputs.styles]\ntype = "loras"\nafter = "4"\n')
    graph = workflow.apply({"loras": [{"name": "a"}], "styles": [{"name": "b"}]})
    assert graph["5"]["inputs"]["model"] == ["loras:0", 0]
    assert graph["loras:0"]["inputs"]["model"] == ["styles:0", 0]
    assert graph["styles:0"]["inputs"]["model"] == ["4", 0]


def test_an_error_of_an_added_node_is_one_of_its_api_field(load: Load) -> None:
    workflow = load()
    graph = workflow.apply({"loras": [{"name": "a"}, {"name": "b", "strength": 1000}]})
    (first, second) = workflow.validate(graph)
    assert (first.field, second.field) == ("loras[1].strength", "loras[1].clip_strength")


def test_the_contract_has_names_bounds_and_lengths(load: Load) -> None:
    keys = 'after = "4"\nminimum = 0\nmaximum = 2\nmax_items = 3\ndescription = "Styles."'
    schema = load(keys).contract.input_schema
    assert schema["required"] == []
    loras = schema["properties"]["loras"]
    assert (loras["type"], loras["maxItems"], loras["default"]) == ("array", 3, [])
    strength = loras["items"]["properties"]["strength"]
    assert strength == {"type": "number", "minimum": 0.0, "maximum": 2.0, "default": 1.0}
    assert loras["items"]["properties"]["name"]["type"] == "string"


def test_lora_files_that_the_catalogue_lists_are_choices(load: Load) -> None:
    workflow = load(nodes={**NODES, **LISTED})
    names = ("style/ink.safetensors", "detail.safetensors")
    assert workflow.parameters["loras"].choices == names
    items = workflow.contract.input_schema["properties"]["loras"]["items"]
    assert items["properties"]["name"] == {"enum": [*names]}


def test_the_map_may_narrow_the_names(load: Load) -> None:
    workflow = load('after = "4"\nchoices = ["own.safetensors"]', nodes={**NODES, **LISTED})
    assert workflow.parameters["loras"].choices == ("own.safetensors",)


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ("", "no_path", "after"),
        ('after = "77"', "no_such_node", "after"),
        ('after = "6"', "wrong_type", "after"),
        ('after = "4"\nclip_after = "77"', "no_such_node", "clip_after"),
        ('after = "4"\nclip_after = "5"', "wrong_type", "clip_after"),
        ('after = "4"\nminimum = -200', "widens", "minimum"),
        ('after = "4"\nmaximum = 200', "widens", "maximum"),
        ('after = "4"\nmaximum = 0.8', "default_out_of_range", "minimum"),
        ('after = "4"\nchoices = [1]', "wrong_type", "choices"),
        ('after = "4"\nchoices = ["a", "a"]', "duplicate_choice", "choices"),
        ('after = "4"\nmin_items = 9', "empty_range", "min_items"),
        ('after = "4"\npath = "6.inputs.text"', "not_applicable", "path"),
        ('after = "4"\neach = ["6.inputs.text"]', "not_applicable", "each"),
        ('after = "4"\ndefault = []', "not_applicable", "default"),
        ('after = "4"\nrandom = true', "not_applicable", "random"),
    ],
)
def test_a_wrong_entry_is_rejected_at_its_key(load: Load, keys: str, code: str, key: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(keys)
    assert (caught.value.code, caught.value.field) == (code, f"inputs.loras.{key}")


def test_loras_need_to_know_the_outputs_of_the_loader(load: Load) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(nodes=None)
    assert (caught.value.code, caught.value.field) == ("no_catalogue", "inputs.loras.after")


def test_a_node_that_may_be_bypassed_cannot_be_followed_by_loras(load: Load) -> None:
    with pytest.raises(WorkflowError) as caught:
        load('after = "5"', more='[inputs.shift]\nbypass = "5"\n')
    assert (caught.value.code, caught.value.field) == ("cannot_bypass", "inputs.shift.bypass")


def test_another_node_may_be_bypassed(load: Load) -> None:
    workflow = load(more='[inputs.shift]\nbypass = "5"\n')
    graph = workflow.apply({"shift": False, "loras": [{"name": "a"}]})
    assert "5" not in graph
    assert graph["7"]["inputs"]["model"] == ["loras:0", 0]


def test_after_is_only_for_loras(load: Load) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(more='[inputs.text]\npath = "6.inputs.text"\nafter = "4"\n')
    assert (caught.value.code, caught.value.field) == ("not_applicable", "inputs.text.after")


def test_loras_that_must_be_given_are_checked_with_an_example(load: Load) -> None:
    workflow = load('after = "4"\nmin_items = 2\nchoices = ["a.safetensors"]')
    assert workflow.parameters["loras"].required
    assert examples(workflow) == {
        "loras": [{"name": "a.safetensors"}, {"name": "example.safetensors"}]
    }
    assert check_workflow(workflow).issues == ()


def test_a_check_also_builds_a_graph_with_a_lora(load: Load) -> None:
    """The class of the loader is not ComfyUI's, and takes no CLIP."""
    wrong: dict[str, Any] = json.loads(json.dumps(LISTED))
    wrong["LoraLoader"]["input"]["required"]["clip"] = ["VAE"]
    issues = check_workflow(load(nodes={**NODES, **wrong})).issues
    assert len(issues) == 1
    assert "loras:0 (loras[0]): clip: expected VAE" in issues[0]


def test_the_model_and_the_contract_agree(load: Load, run_module: Callable[[str], Any]) -> None:
    keys = 'after = "4"\nmaximum = 2\nmax_items = 2\nchoices = ["a.safetensors", "b"]'
    workflow = load(keys, more='[inputs.free]\ntype = "loras"\nafter = "4"\n')
    model = run_module(generate({"small": workflow})["small.py"]).SmallInput
    schema = jsonschema_rs.validator_for(workflow.contract.input_schema)
    one = {"name": "a.safetensors"}
    cases: list[Any] = [
        [], [one], [one, {"name": "b"}], [one] * 3, None, {}, "a", [None], ["a.safetensors"],
        [{}], [{"name": "c"}], [{"name": ""}], [{"name": 1}], [{**one, "strength": 2}],
        [{**one, "strength": 2.5}], [{**one, "strength": -101}], [{**one, "strength": "1"}],
        [{**one, "strength": True}], [{**one, "strength": None}],
        [{**one, "clip_strength": None}], [{**one, "clip_strength": 0.5}],
        [{**one, "clip_strength": 3}], [{**one, "other": 1}],
    ]  # fmt: skip
    for name in ("loras", "free"):
        for case in cases:
            try:
                model.model_validate({name: case})
                accepted = True
            except ValidationError:
                accepted = False
            assert accepted is schema.is_valid({name: case}), (name, case)


def test_a_lora_travels_without_what_was_not_set() -> None:
    assert Lora(name="a").model_dump() == {"name": "a", "strength": 1.0}
    assert Lora(name="a", clip_strength=0.5).model_dump(mode="json") == {
        "name": "a", "strength": 1.0, "clip_strength": 0.5,
    }  # fmt: skip
