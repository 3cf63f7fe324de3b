"""Booleans that bypass nodes."""

import json
from typing import Any

import pytest

from comfysnap_schema.wire.errors import WorkflowError
from comfysnap_schema.workflow.apply import Workflow
from tests.schema.conftest import MakeWorkflow

NODES = json.dumps(
    {
        "Load": {"input": {"required": {}}, "output": ["IMAGE", "MASK"]},
        "Blur": {
            "input": {"required": {"mask": ["MASK"], "image": ["IMAGE"], "size": ["INT"]}},
            "output": ["IMAGE", "MASK"],
        },
        "Pair": {
            "input": {"required": {"first": ["IMAGE"], "second": ["IMAGE"]}},
            "output": ["IMAGE", "IMAGE", "LATENT"],
        },
        "Save": {
            "input": {"required": {"images": ["IMAGE"]}, "optional": {"mask": ["MASK"]}},
            "output": [],
            "output_node": True,
        },
    }
)
GRAPH: dict[str, Any] = {
    "load": {"class_type": "Load", "inputs": {}},
    "blur": {
        "class_type": "Blur",
        "inputs": {"mask": ["load", 1], "image": ["load", 0], "size": 3},
    },
    "again": {
        "class_type": "Blur",
        "inputs": {"mask": ["blur", 1], "image": ["blur", 0], "size": 5},
    },
    "save": {"class_type": "Save", "inputs": {"images": ["again", 0], "mask": ["again", 1]}},
}
MAP = """
name = "small"
[inputs.blur]
bypass = "blur"
[inputs.again]
bypass = ["again"]
default = false
[inputs.size]
path = "again.inputs.size"
[outputs.images]
node = "save"
"""


@pytest.fixture
def workflow(make_workflow: MakeWorkflow) -> Workflow:
    return Workflow.load(make_workflow(MAP, GRAPH, nodes__json=NODES))


def test_a_bypass_is_a_boolean_that_is_true_by_default(workflow: Workflow) -> None:
    assert workflow.parameters["blur"].type == "boolean"
    assert workflow.complete({}) == {"blur": True, "again": False, "size": 5}


def test_a_node_that_is_not_bypassed_is_unchanged(workflow: Workflow) -> None:
    assert workflow.apply({"blur": True, "again": True}) == GRAPH


def test_inputs_of_a_bypassed_node_pass_through_by_type(workflow: Workflow) -> None:
    graph = workflow.apply({"blur": False, "size": 7})
    assert "blur" not in graph
    assert graph["again"]["inputs"] == {"mask": ["load", 1], "image": ["load", 0], "size": 7}
    assert workflow.graph == GRAPH


def test_bypassed_nodes_in_a_row_are_all_passed_through(workflow: Workflow) -> None:
    graph = workflow.apply({"blur": False, "again": False, "size": 7})
    assert graph == {
        "load": GRAPH["load"],
        "save": {"class_type": "Save", "inputs": {"images": ["load", 0], "mask": ["load", 1]}},
    }
    assert workflow.validate(graph) == []


def test_the_input_in_the_same_position_comes_before_the_others(
    make_workflow: MakeWorkflow,
) -> None:
    graph: dict[str, Any] = {
        "a": {"class_type": "Load", "inputs": {}},
        "b": {"class_type": "Load", "inputs": {}},
        "pair": {"class_type": "Pair", "inputs": {"first": ["a", 0], "second": ["b", 0]}},
        "save": {"class_type": "Save", "inputs": {"images": ["pair", 1]}},
    }
    text = 'name = "small"\n[inputs.on]\nbypass = "pair"\n[outputs.images]\nnode = "save"\n'
    workflow = Workflow.load(make_workflow(text, graph, nodes__json=NODES))
    assert workflow.apply({"on": False})["save"]["inputs"]["images"] == ["b", 0]


@pytest.mark.parametrize(
    ("link", "code"),
    [(["pair", 2], "cannot_bypass"), (["pair", 9], "cannot_bypass")],
)
def test_a_node_without_an_input_to_pass_through_is_rejected_at_load(
    make_workflow: MakeWorkflow, link: list[Any], code: str
) -> None:
    graph: dict[str, Any] = {
        "a": {"class_type": "Load", "inputs": {}},
        "pair": {"class_type": "Pair", "inputs": {"first": ["a", 0], "second": ["a", 0]}},
        "save": {"class_type": "Save", "inputs": {"images": link}},
    }
    text = 'name = "small"\n[inputs.on]\nbypass = "pair"\n[outputs.images]\nnode = "save"\n'
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(make_workflow(text, graph, nodes__json=NODES))
    assert (caught.value.code, caught.value.field) == (code, "inputs.on.bypass")


def test_an_output_node_cannot_be_bypassed(
    make_workflow: MakeWorkflow,
) -> None:
    text = MAP.replace('bypass = "blur"', 'bypass = "save"')
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(make_workflow(text, GRAPH, nodes__json=NODES))
    assert (caught.value.code, caught.value.field) == ("cannot_bypass", "inputs.blur.bypass")


def test_a_class_without_a_definition_cannot_be_bypassed(
    make_workflow: MakeWorkflow,
) -> None:
    graph = {**GRAPH, "blur": {**GRAPH["blur"], "class_type": "Foreign Blur"}}
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(make_workflow(MAP, graph, nodes__json=NODES))
    assert caught.value.code == "no_catalogue"
