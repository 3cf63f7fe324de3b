"""Inputs with one value for each of several places, and places that get none."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
import pytest
from pydantic import ValidationError

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.wire import InputError, WorkflowError
from comfysnap_schema.workflow import Workflow, check_workflow, examples
from tests.schema.conftest import MakeWorkflow

NODES: dict[str, Any] = {
    "Load": {
        "input": {"required": {"image": [[], {"image_upload": True}]}},
        "output": ["IMAGE"],
    },
    "Scale": {
        "input": {"required": {"image": ["IMAGE"], "size": ["INT", {"min": 1, "max": 9}]}},
        "output": ["LATENT"],
    },
    "Batch": {
        "input": {"required": {"one": ["IMAGE"], "two": ["IMAGE"]}},
        "output": ["IMAGE"],
    },
    "Refer": {
        "input": {
            "required": {"text": ["STRING"]},
            "optional": {"first": ["IMAGE"], "second": ["LATENT"], "note": ["STRING"]},
        },
        "output": ["CONDITIONING"],
    },
    "Combine": {
        "input": {"required": {"a": ["CONDITIONING"], "b": ["CONDITIONING"]}},
        "output": ["CONDITIONING"],
    },
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "positive": ["CONDITIONING"],
                "latent": ["LATENT"],
                "mode": [["fast", "good"]],
            }
        },
        "output": ["LATENT"],
    },
    "Latent": {"input": {"required": {}}, "output": ["LATENT"]},
    "Model": {"input": {"required": {}}, "output": ["MODEL"]},
    "Save": {
        "input": {"required": {"latent": ["LATENT"]}, "optional": {"images": ["IMAGE"]}},
        "output": [],
        "output_node": True,
    },
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


GRAPH: dict[str, Any] = {
    "10": node("Load", image="a.png"),
    "11": node("Load", image="b.png"),
    "12": node("Load", image="c.png"),
    "20": node("Batch", one=["10", 0], two=["11", 0]),
    "21": node("Batch", one=["20", 0], two=["12", 0]),
    "30": node("Refer", text="one", note="x"),
    "31": node("Refer", text="two"),
    "32": node("Combine", a=["30", 0], b=["31", 0]),
    "40": node("Sample", model=["41", 0], positive=["32", 0], latent=["42", 0], mode="fast"),
    "41": node("Model"),
    "42": node("Latent"),
    "50": node("Save", latent=["40", 0], images=["21", 0]),
}
IMAGES = """
[inputs.images]
each = ["10.inputs.image", "11.inputs.image", "12.inputs.image"]
"""
TEXTS = """
[inputs.texts]
each = ["30.inputs.text", "31.inputs.text"]
"""
OUTPUT = '[outputs.result]\nnode = "50"\n'

Load = Callable[..., Workflow]


@pytest.fixture
def load(make_workflow: MakeWorkflow) -> Load:
    def load(
        entries: str,
        graph: Mapping[str, Any] = GRAPH,
        nodes: Mapping[str, Any] | None = NODES,
        **files: str,
    ) -> Workflow:
        if nodes is not None:
            files["nodes__json"] = json.dumps(nodes)
        return Workflow.load(make_workflow(f'name = "small"\n{entries}\n{OUTPUT}', graph, **files))

    return load


def refused(load: Load, entries: str, **options: Any) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        load(entries, **options)
    return caught.value


def test_each_value_goes_to_its_own_place(load: Load) -> None:
    workflow = load(IMAGES)
    graph = workflow.apply({"images": ["x.png", "y.png", "z.png"]})
    assert [graph[n]["inputs"]["image"] for n in ("10", "11", "12")] == ["x.png", "y.png", "z.png"]
    assert graph.keys() == GRAPH.keys()
    assert workflow.fields["11.inputs.image"] == "images[1]"


def test_what_reads_a_place_without_a_value_is_bypassed(load: Load) -> None:
    workflow = load(IMAGES)
    two = workflow.apply({"images": ["x.png", "y.png"]})
    assert two.keys() == GRAPH.keys() - {"12", "21"}
    assert two["50"]["inputs"]["images"] == ["20", 0]
    one = workflow.apply({"images": ["x.png"]})
    assert one["50"]["inputs"]["images"] == ["10", 0]
    assert (workflow.validate(two), workflow.validate(one)) == ([], [])
    assert workflow.graph == GRAPH


def test_an_optional_socket_that_lost_its_source_is_left_out(load: Load) -> None:
    workflow = load(IMAGES)
    graph = workflow.apply({"images": []})
    assert graph["50"]["inputs"] == {"latent": ["40", 0]}
    assert graph.keys() == GRAPH.keys() - {"10", "11", "12", "20", "21"}
    parameter = workflow.parameters["images"]
    assert (parameter.min_items, parameter.max_items) == (0, 3)
    assert workflow.complete({}) == {"images": []}


def test_nodes_between_a_place_and_an_optional_socket_go_too(load: Load) -> None:
    graph = {**GRAPH, "13": node("Scale", image=["12", 0], size=3)}
    graph["31"] = node("Refer", text="two", first=["11", 0], second=["13", 0])
    entries = '[inputs.images]\neach = ["11.inputs.image", "12.inputs.image"]\n'
    graph["50"] = node("Save", latent=["40", 0])
    built = load(entries, graph).apply({"images": ["x.png"]})
    assert built["31"]["inputs"] == {"text": "two", "first": ["11", 0]}
    assert "13" not in built


def test_an_optional_value_is_left_out_and_its_node_stays(load: Load) -> None:
    entries = '[inputs.notes]\neach = ["30.inputs.note", "31.inputs.note"]\ndefault = []\n'
    built = load(entries).apply({"notes": []})
    assert built["30"]["inputs"] == {"text": "one"}
    assert built["31"] == GRAPH["31"]


def test_a_sampler_is_never_bypassed_for_want_of_a_value(load: Load) -> None:
    workflow = load(TEXTS)
    assert workflow.parameters["texts"].min_items == 1
    graph = workflow.apply({"texts": ["hello"]})
    assert graph["40"]["inputs"]["positive"] == ["30", 0]
    assert graph["30"]["inputs"]["text"] == "hello"
    error = refused(load, f"{TEXTS}min_items = 0")
    assert (error.code, error.field) == ("cannot_remove", "inputs.texts.min_items")
    assert "node 40 (Sample), which is a sampler, needs it" in error.message


def test_a_place_that_an_output_needs_must_have_a_value(load: Load) -> None:
    graph = {**GRAPH, "50": node("Save", latent=["13", 0])}
    graph["13"] = node("Scale", image=["12", 0], size=3)
    workflow = load(IMAGES, graph)
    parameter = workflow.parameters["images"]
    assert (parameter.min_items, parameter.max_items, parameter.required) == (3, 3, True)
    error = refused(load, f"{IMAGES}min_items = 2", graph=graph)
    assert error.code == "cannot_remove"
    assert "12.inputs.image cannot be removed" in error.message
    assert "node 50 (Save), which makes an output, needs it" in error.message
    error = refused(load, f"{IMAGES}max_items = 2", graph=graph)
    assert (error.code, error.field) == ("cannot_remove", "inputs.images.max_items")


@pytest.mark.parametrize("known", [None, ["Load"], ["Load", "Save"]])
def test_without_definitions_every_place_must_have_a_value(
    load: Load, known: list[str] | None
) -> None:
    nodes = None if known is None else {name: NODES[name] for name in known}
    graph = {name: GRAPH[name] for name in ("11", "12")}
    graph["20"] = node("Batch", one=["11", 0], two=["12", 0])
    graph["50"] = node("Save", latent=["20", 0])
    entries = '[inputs.images]\nkind = "image"\neach = ["11.inputs.image", "12.inputs.image"]\n'
    workflow = load(entries, graph, nodes)
    assert workflow.parameters["images"].min_items == 2
    message = refused(load, f"{entries}min_items = 1", graph=graph, nodes=nodes).message
    assert ("nodes.json" in message) is True
    assert ("Batch" in message) is (known is not None)


def test_two_places_of_one_node_cannot_be_removed_apart(load: Load) -> None:
    graph = {**GRAPH, "51": node("Pair", first="a", second="b")}
    graph["50"] = node("Save", latent=["40", 0], images=["51", 0])
    pair = {"first": ["STRING"], "second": ["STRING"]}
    nodes = {**NODES, "Pair": {"input": {"required": pair}, "output": ["IMAGE"]}}
    entries = '[inputs.words]\neach = ["51.inputs.first", "51.inputs.second"]\n'
    workflow = load(entries, graph, nodes)
    assert workflow.parameters["words"].min_items == 2
    error = refused(load, f"{entries}min_items = 1", graph=graph, nodes=nodes)
    assert "node 51, which has another place of the list" in error.message


def test_lists_that_together_leave_too_little_are_an_error_of_the_input(load: Load) -> None:
    graph = {**GRAPH, "20": node("Batch", one=["10", 0], two=["11", 0])}
    graph["50"] = node("Save", latent=["13", 0])
    graph["13"] = node("Scale", image=["20", 0], size=3)
    entries = (
        '[inputs.left]\neach = ["10.inputs.image"]\n[inputs.right]\neach = ["11.inputs.image"]\n'
    )
    workflow = load(entries, graph)
    assert workflow.apply({"left": [], "right": ["x"]})["13"]["inputs"]["image"] == ["11", 0]
    assert workflow.apply({"left": ["x"], "right": []})["13"]["inputs"]["image"] == ["10", 0]
    with pytest.raises(InputError) as caught:
        workflow.build({"left": [], "right": []})
    assert [field.field for field in caught.value.fields] == ["left"]
    assert "node 50 (Save)" in caught.value.fields[0].message
    assert "the graph rejected the defaults: left" in check_workflow(workflow).issues[0]
    kept = (
        '[inputs.left]\neach = ["10.inputs.image"]\nrequired = false\n'
        '[inputs.right]\neach = ["11.inputs.image"]\nrequired = false\n'
    )
    checked = check_workflow(load(kept, graph))
    assert checked.issues == ()
    assert "as few values" in checked.notes[0]


def test_a_node_that_is_bypassed_anyway_needs_no_removal(load: Load) -> None:
    graph = dict(GRAPH)
    graph["60"] = node("Refer", text="two")
    graph["61"] = node("Mix", conditioning=["60", 0], text="mixed")
    graph["62"] = node("Show", conditioning=["61", 0])
    nodes: dict[str, Any] = {
        **NODES,
        "Mix": {
            "input": {"required": {"conditioning": ["CONDITIONING"], "text": ["STRING"]}},
            "output": ["CONDITIONING"],
        },
        "Show": {
            "input": {"required": {"conditioning": ["CONDITIONING"]}},
            "output": [],
            "output_node": True,
        },
    }
    entries = '[inputs.mix]\nbypass = "61"\n[inputs.texts]\neach = ["61.inputs.text"]\n'
    workflow = load(entries, graph, nodes)
    built = workflow.apply({"mix": False, "texts": []})
    assert "61" not in built
    assert built["62"]["inputs"]["conditioning"] == ["60", 0]
    assert workflow.apply({"mix": True, "texts": []}) == built


def test_a_preview_that_no_output_of_the_map_needs_may_go(load: Load) -> None:
    graph = {**GRAPH, "60": node("Save", latent=["61", 0])}
    graph["61"] = node("Scale", image=["12", 0], size=3)
    built = load(IMAGES, graph).apply({"images": ["x", "y"]})
    assert not {"60", "61"} & built.keys()


def test_links_around_a_circle_end(load: Load) -> None:
    graph = {**GRAPH, "20": node("Batch", one=["21", 0], two=["11", 0])}
    graph["21"] = node("Batch", one=["20", 0], two=["12", 0])
    entries = '[inputs.images]\neach = ["11.inputs.image", "12.inputs.image"]\n'
    built = load(entries, graph).apply({"images": []})
    assert built["50"]["inputs"] == {"latent": ["40", 0]}


def test_values_have_the_graph_s_as_default(load: Load) -> None:
    workflow = load(f"{TEXTS}max_length = 9\n")
    assert workflow.complete({}) == {"texts": ["one", "two"]}
    assert not workflow.parameters["texts"].required
    assert load(f"{TEXTS}max_items = 1\n").complete({}) == {"texts": ["one"]}
    assert load(f'{TEXTS}default = ["a"]\n').complete({}) == {"texts": ["a"]}
    assert load(f"{TEXTS}required = true\n").parameters["texts"].required


def test_a_place_without_a_value_in_the_graph_leaves_no_default(load: Load) -> None:
    entries = '[inputs.notes]\neach = ["30.inputs.note", "31.inputs.note"]\n'
    assert load(entries).parameters["notes"].required
    optional = load(f"{entries}required = false\n").parameters["notes"]
    assert (optional.required, optional.default, optional.nullable) == (False, None, True)


def test_files_may_be_left_to_the_graph(load: Load) -> None:
    workflow = load(f"{IMAGES}required = false\n")
    assert workflow.complete({"images": None}) == {}
    assert workflow.apply({}) == GRAPH
    assert workflow.contract.input_schema["properties"]["images"]["type"] == ["array", "null"]
    assert load(f"{IMAGES}min_items = 1\n").parameters["images"].required
    assert load(f"{IMAGES}required = true\n").parameters["images"].required


def test_integers_are_converted_one_by_one(load: Load) -> None:
    graph = {**GRAPH, "60": node("Scale", image=["10", 0], size=3)}
    workflow = load('[inputs.sizes]\neach = ["60.inputs.size"]\n', graph)
    assert workflow.complete({"sizes": [5.0]}) == {"sizes": [5]}


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ('path = "30.inputs.text"', "not_applicable", "path"),
        ('bypass = "30"', "not_applicable", "bypass"),
        ("random = true", "not_applicable", "random"),
        ("max_items = 3", "widens", "max_items"),
        ("min_items = 2\nmax_items = 1", "empty_range", "min_items"),
        ("default = []", "default_out_of_range", "default"),
        ('default = "a"', "wrong_default_type", "default"),
        ("default = [1]", "wrong_default_type", "default"),
        ('required = true\ndefault = ["a"]', "not_applicable", "default"),
        ("minimum = 1", "not_applicable", "minimum"),
        ('after = "41"', "not_applicable", "after"),
    ],
)
def test_a_wrong_list_is_rejected_at_its_key(load: Load, keys: str, code: str, key: str) -> None:
    error = refused(load, f"{TEXTS}{keys}\n")
    assert (error.code, error.field) == (code, f"inputs.texts.{key}")


@pytest.mark.parametrize(
    ("places", "code"),
    [
        (["30.inputs.text", "10.inputs.image"], "types_differ"),
        (["30.inputs.text", "30.inputs.text"], "duplicate_path"),
        (["30.inputs.nothing"], "no_such_path"),
    ],
)
def test_wrong_places_are_rejected(load: Load, places: list[str], code: str) -> None:
    error = refused(load, f"[inputs.texts]\neach = {json.dumps(places)}\n")
    assert (error.code, error.field) == (code, "inputs.texts.each")


def test_places_without_a_common_choice_are_rejected(load: Load) -> None:
    other = json.loads(json.dumps(NODES["Sample"]))
    other["input"]["required"]["mode"] = [["slow"]]
    graph = {**GRAPH, "43": {**GRAPH["40"], "class_type": "Other"}}
    entries = '[inputs.modes]\neach = ["40.inputs.mode", "43.inputs.mode"]\n'
    error = refused(load, entries, graph=graph, nodes={**NODES, "Other": other})
    assert (error.code, error.field) == ("types_differ", "inputs.modes.each")


def test_files_have_no_default(load: Load) -> None:
    error = refused(load, f'{IMAGES}default = ["a.png"]\n')
    assert (error.code, error.field) == ("not_applicable", "inputs.images.default")


@pytest.mark.parametrize("key", ["min_items", "max_items"])
def test_only_lists_have_lengths(load: Load, key: str) -> None:
    error = refused(load, f'[inputs.text]\npath = "30.inputs.text"\n{key} = 1\n')
    assert (error.code, error.field) == ("not_applicable", f"inputs.text.{key}")


def test_a_required_list_has_an_example(load: Load) -> None:
    workflow = load(f"{TEXTS}required = true\n{IMAGES}min_items = 2\n")
    assert examples(workflow) == {"texts": ["one"], "images": ["a.png", "b.png"]}
    notes = '[inputs.notes]\neach = ["31.inputs.note"]\n'
    assert examples(load(notes)) == {"notes": ["x"]}
    assert check_workflow(workflow).issues == ()


EVERYTHING = """
[inputs.images]
each = ["10.inputs.image", "11.inputs.image"]
min_items = 1
[inputs.texts]
each = ["30.inputs.text", "31.inputs.text"]
max_length = 4
required = true
[inputs.notes]
each = ["30.inputs.note", "31.inputs.note"]
required = false
[inputs.modes]
each = ["40.inputs.mode"]
[inputs.sizes]
each = ["60.inputs.size", "61.inputs.size"]
[inputs.seeds]
each = ["60.inputs.seed", "61.inputs.seed"]
[inputs.levels]
each = ["60.inputs.level", "61.inputs.level"]
choices = [1, 2]
[inputs.scales]
each = ["60.inputs.scale", "61.inputs.scale"]
choices = [0.5, 1.5]
[inputs.flags]
each = ["60.inputs.flag", "61.inputs.flag"]
[inputs.data]
each = ["60.inputs.data", "61.inputs.data"]
[inputs.many]
each = ["60.inputs.many", "61.inputs.many"]
[inputs.list]
each = ["60.inputs.other"]
min_items = 1
"""


@pytest.fixture
def everything(load: Load) -> Workflow:
    values: dict[str, Any] = {
        "size": 3, "seed": 7, "level": 1, "scale": 0.5, "flag": True, "data": {"a": 1},
        "many": "a", "other": 2.5,
    }  # fmt: skip
    number = ["INT", {"min": 0, "max": 2**64 - 1}]
    letters = [[*"abcdefgh"]]
    inputs = {
        "image": ["IMAGE"], "size": ["INT", {"min": 1, "max": 9}], "seed": number,
        "level": ["INT"], "scale": ["FLOAT"], "flag": ["BOOLEAN"], "data": ["CURVE"],
        "many": letters, "other": ["FLOAT", {"max": 5.0}],
    }  # fmt: skip
    nodes = {**NODES, "All": {"input": {"required": inputs}, "output": ["IMAGE"]}}
    graph = {
        **GRAPH,
        "60": node("All", image=["21", 0], **values),
        "61": node("All", image=["60", 0], **values),
        "50": node("Save", latent=["40", 0], images=["61", 0]),
    }
    return load(EVERYTHING, graph, nodes)


def test_the_generated_types_of_lists(everything: Workflow) -> None:
    source = "".join(generate({"small": everything})["small.py"].split())
    for expected in (
        "images: Annotated[list[FileInput], Field(min_length=1, max_length=2)]\n",
        "Annotated[list[Annotated[str, Field(max_length=4)]], Field(min_length=1, max_length=2)]\n",
        "notes: Annotated[list[str] | None, Field(max_length=2)] = None\n",
        'modes: Annotated[list[Literal["fast", "good"]], Field(max_length=1)] = ["fast"]\n',
        "Annotated[list[Annotated[BigInt, Field(ge=0, le=18446744073709551615)]]",
        "list[Annotated[Literal[1, 2], NoBool]]",
        "list[Annotated[float, OneOf((0.5, 1.5))]]",
        "flags: Annotated[list[bool], Field(max_length=2)] = [True, True]\n",
        "data: Annotated[list[JsonValue], Field(max_length=2)] = [{",
        'many: Annotated[list[SmallMany], Field(max_length=2)] = ["a", "a"]\n',
        'Field(alias="list")',
        '"""1 to 2 values."""',
        '"""1 to 2 values, each at most 4 characters."""',
        '"""Up to 2 values, each from 1 to 9."""',
        '"""1 value, each at most 5.0."""',
    ):
        assert "".join(expected.split()).strip() in source.replace(",]", "]")


def test_generated_models_and_the_contract_accept_the_same_lists(
    everything: Workflow, run_module: Callable[[str], Any]
) -> None:
    model = run_module(generate({"small": everything})["small.py"]).SmallInput
    schema = jsonschema_rs.validator_for(everything.contract.input_schema)
    file = {"sha256": "0123456789abcdef" * 4}
    valid = {"images": [file], "texts": ["a"]}
    items: list[Any] = [
        None, True, 0, 1, 1.0, 2, 3, 0.5, 1.5, 7, 9, 10, -1, 5.5, 2**64 - 1, 2**64, "a", "x",
        "12345", "7", "18446744073709551616", "fast", file, {"sha256": "x"}, {}, [],
    ]  # fmt: skip
    for name in everything.parameters:
        for item in items:
            for value in (item, [], [item], [item, item], [item] * 3):
                if item == "x" and name == "images":
                    continue
                wire = json.loads(json.dumps({**valid, name: value}))
                try:
                    model.model_validate(wire)
                    accepted = True
                except ValidationError:
                    accepted = False
                assert accepted is schema.is_valid(wire), wire
                if accepted and value is not None:
                    everything.build(everything.complete(wire))
