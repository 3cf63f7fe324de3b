"""Putting inputs into a graph: apply, bypass, constants, prepare.py."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from comfysnap_schema.comfy.graph import Graph, InputPath
from comfysnap_schema.wire.errors import InputError, WorkflowError
from comfysnap_schema.workflow.apply import Workflow, load_workflows
from comfysnap_schema.workflow.map import OutputSpec, WorkflowSpec
from comfysnap_schema.workflow.parameters import RANDOM_BELOW, Parameter
from tests.schema.conftest import MakeWorkflow

names = st.text("abcdefgh.:", min_size=1, max_size=4).filter(lambda text: text.strip(".:"))
nodes = st.text("0123456789:", min_size=1, max_size=3)
values: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.none() | st.integers(), max_size=2)
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workflow, dict[str, JsonValue]]:
    """A random graph, a map onto some of its places, and a value for some parameters."""
    graph: Graph = {
        node: {
            "class_type": draw(names),
            "inputs": draw(st.dictionaries(names, values, max_size=4)),
        }
        for node in draw(st.sets(nodes, min_size=1, max_size=5))
    }
    places = [InputPath(node, name) for node, entry in graph.items() for name in entry["inputs"]]
    draw(st.randoms()).shuffle(places)
    parameters: dict[str, Parameter] = {}
    while places:
        count = draw(st.integers(1, 3))
        name = f"p{len(parameters)}"
        parameters[name] = Parameter(name=name, type="json", paths=tuple(places[:count]))
        places = places[count + draw(st.integers(0, 2)) :]
    spec = WorkflowSpec(name="random", outputs={"x": OutputSpec(node="1")})
    given_names = draw(st.sets(st.sampled_from(sorted(parameters)))) if parameters else set[str]()
    inputs = {name: draw(values) for name in sorted(given_names)}
    return Workflow(Path(), spec, graph, parameters), inputs


@settings(deadline=None)
@given(case=cases())
def test_inputs_are_set_at_their_paths_and_nothing_else_changes(
    case: tuple[Workflow, dict[str, JsonValue]],
) -> None:
    workflow, inputs = case
    before = copy.deepcopy(workflow.graph)
    result = workflow.apply(inputs)
    assert workflow.graph == before
    places = {path: v for name, v in inputs.items() for path in workflow.parameters[name].paths}
    expected = copy.deepcopy(before)
    for path, value in places.items():
        expected[path.node]["inputs"][path.name] = value
    assert result == expected
    assert list(result) == list(before)
    touched = {path.node for path in places}
    assert all((result[node] is workflow.graph[node]) == (node not in touched) for node in result)


@pytest.mark.parametrize("name", ["hello", "flux", "sdxl", "img2img", "video"])
def test_the_defaults_of_the_example_workflows_change_nothing_but_the_seed(
    root: Path, name: str
) -> None:
    workflow = load_workflows(root / "workflows")[name]
    inputs = workflow.complete({})
    seeds = [parameter.name for parameter in workflow.parameters.values() if parameter.random]
    for seed in seeds:
        drawn = inputs.pop(seed)
        assert isinstance(drawn, int)
        assert 0 <= drawn < RANDOM_BELOW
    assert workflow.apply(inputs) == workflow.graph


def test_a_seed_given_as_digits_reaches_the_graph_as_an_integer(root: Path) -> None:
    workflow = load_workflows(root / "workflows")["flux"]
    inputs = workflow.complete({"prompt": "a fox", "seed": str(2**64 - 1), "width": 512.0})
    graph = workflow.apply(inputs)
    assert graph["31"]["inputs"]["seed"] == 2**64 - 1
    assert json.dumps(graph["27"]["inputs"]["width"]) == "512"


def test_one_parameter_reaches_several_places(root: Path) -> None:
    workflow = load_workflows(root / "workflows")["sdxl"]
    graph = workflow.apply(workflow.complete({"prompt": "a fox", "steps": 30}))
    assert graph["6"]["inputs"]["text"] == graph["15"]["inputs"]["text"] == "a fox"
    assert graph["10"]["inputs"]["steps"] == graph["11"]["inputs"]["steps"] == 30


def test_null_means_left_out_where_there_is_no_default(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow(
        'name = "small"\n[inputs.width]\npath = "2.inputs.width"\nrequired = false\n'
        '[inputs.seed]\npath = "2.inputs.height"\nrandom = true\nminimum = 10\nmaximum = 10\n'
        '[outputs.images]\nnode = "3"\n'
    )
    workflow = Workflow.load(folder)
    assert workflow.complete({"width": None, "seed": None}) == {"width": 512, "seed": 10}


def test_a_random_draw_keeps_the_range_and_the_step(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow(
        'name = "small"\n[inputs.seed]\npath = "2.inputs.height"\nrandom = true\nminimum = 8\n'
        'maximum = 24\nmultiple_of = 8\n[outputs.images]\nnode = "3"\n'
    )
    workflow = Workflow.load(folder)
    drawn = [workflow.complete({})["seed"] for _ in range(200)]
    assert all(drawn.count(seed) for seed in (8, 16, 24))
    assert sum(drawn.count(seed) for seed in (8, 16, 24)) == 200


def test_a_constant_stands_in_every_graph(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow(
        'name = "small"\n[inputs.width]\npath = "2.inputs.width"\n[outputs.images]\nnode = "3"\n'
        '[constants]\n"2.inputs.crop" = "center"\n'
    )
    workflow = Workflow.load(folder)
    assert workflow.apply({"width": 8})["2"]["inputs"]["crop"] == "center"


def lora_chain(root: Path) -> Workflow:
    return Workflow.load(root / "tests" / "schema" / "workflows" / "lora")


def test_prepare_chains_a_lora_loader_for_each_lora(root: Path) -> None:
    workflow = lora_chain(root)
    before = copy.deepcopy(workflow.graph)
    loras: JsonValue = [{"name": "ink.safetensors"}, {"name": "film.safetensors", "strength": 0.5}]
    graph = workflow.build(workflow.complete({"prompt": "a fox", "loras": loras}))
    assert workflow.graph == before
    first, second = graph["lora_1"]["inputs"], graph["lora_2"]["inputs"]
    assert (first["lora_name"], first["strength_model"], first["model"]) == (
        "ink.safetensors", 1.0, ["4", 0],
    )  # fmt: skip
    assert (second["lora_name"], second["strength_clip"], second["clip"]) == (
        "film.safetensors", 0.5, ["lora_1", 1],
    )  # fmt: skip
    assert graph["3"]["inputs"]["model"] == ["lora_2", 0]
    assert graph["6"]["inputs"]["clip"] == graph["7"]["inputs"]["clip"] == ["lora_2", 1]
    assert graph["8"]["inputs"]["vae"] == ["4", 2]
    assert workflow.validate(graph) == []


def test_prepare_leaves_the_graph_alone_without_loras(root: Path) -> None:
    workflow = lora_chain(root)
    graph = workflow.build(workflow.complete({"prompt": "", "seed": 0}))
    assert graph == workflow.graph


def test_without_a_catalogue_nothing_is_checked(make_workflow: MakeWorkflow) -> None:
    workflow = Workflow.load(make_workflow())
    assert workflow.validate({}) == []


def test_inputs_that_prepare_rejects_are_an_input_error(root: Path) -> None:
    workflow = lora_chain(root)
    with pytest.raises(InputError) as caught:
        workflow.build(workflow.complete({"prompt": "", "loras": [{"name": "../secrets"}]}))
    assert caught.value.code == "invalid_input"
    assert caught.value.fields[0].field == "loras"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("def prepare(graph, inputs):\n    return graph['99']\n", "prepare_failed"),
        ("def prepare(graph, inputs):\n    return None\n", "prepare_result"),
        ("def prepare(graph, inputs):\n    return {'1': {'class_type': 3}}\n", "prepare_result"),
        ("def prepare(graph, inputs):\n    raise ValueError\n", "invalid_input"),
    ],
)
def test_a_failing_prepare_has_an_error_code(
    make_workflow: MakeWorkflow, source: str, code: str
) -> None:
    workflow = Workflow.load(make_workflow(prepare__py=source))
    with pytest.raises((WorkflowError, InputError)) as caught:
        workflow.build({"width": 64})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import nothing_of_this_name\n", "prepare_failed"),
        ("def prepare(:\n", "prepare_failed"),
        ("x = 1\n", "no_prepare"),
        ("prepare = 3\n", "no_prepare"),
        ("def prepare(graph):\n    return graph\n", "no_prepare"),
    ],
)
def test_a_prepare_that_cannot_be_used_is_found_at_load(
    make_workflow: MakeWorkflow, source: str, code: str
) -> None:
    folder = make_workflow(prepare__py=source)
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(folder)
    assert caught.value.code == code
    assert caught.value.file == str(folder / "prepare.py")


def test_the_failing_line_is_reported(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow(prepare__py="def prepare(graph, inputs):\n    return 1 / 0\n")
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(folder).build({})
    assert caught.value.message.startswith("line 2: ZeroDivisionError")


def test_prepare_cannot_change_the_workflow_itself(make_workflow: MakeWorkflow) -> None:
    source = (
        "def prepare(graph, inputs):\n    graph['1']['inputs'].clear()\n    inputs.clear()\n"
        "    return graph\n"
    )
    workflow = Workflow.load(make_workflow(prepare__py=source))
    inputs: dict[str, Any] = {"width": 64}
    assert workflow.build(inputs)["1"]["inputs"] == {}
    assert workflow.graph["1"]["inputs"]
    assert inputs == {"width": 64}
