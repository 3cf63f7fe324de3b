import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from comfysnap_schema.workflow import Workflow, load_workflows
from comfysnap_server.gateway.mcp.tools import description, input_schema, inputs_of, output_schema
from tests.paths import ROOT, WORKFLOWS
from tests.server.gateway.conftest import GRAPH

SHA = "ab" * 32
EDIT = ROOT / "examples" / "edit"
LISTS = """
name = "many"
[inputs.pictures]
each = ["10.inputs.image", "11.inputs.image"]
kind = "image"
min_items = 1
title = "Pictures"
description = "What to mix."
[inputs.mask]
path = "12.inputs.image"
kind = "mask"
required = false
[inputs.model]
path = "4.inputs.ckpt_name"
type = "model"
folder = "checkpoints"
[inputs.sampler]
path = "3.inputs.sampler_name"
choices = ["euler", "heun"]
required = false
[inputs.noise]
path = "3.inputs.noise"
minimum = 0
maximum = 18446744073709551615
[outputs.images]
node = "9"
many = true
[outputs.caption]
node = "9"
kind = "text"
"""


@pytest.fixture
def many(tmp_path: Path) -> Workflow:
    """A workflow with an input of each kind."""
    load = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    sampler = {
        "class_type": "KSampler",
        "inputs": {
            "sampler_name": "euler",
            "noise": 7,
            "model": ["4", 0],
            "latent_image": ["5", 0],
        },
    }
    graph = {
        **GRAPH,
        "3": sampler,
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
        "11": load,
        "12": {"class_type": "LoadImageMask", "inputs": {"image": "example.png"}},
    }
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(graph))
    (folder / "workflow.toml").write_text(LISTS)
    return Workflow.load(folder)


def every_schema(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from every_schema(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from every_schema(item)


def check_is_plain(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    for each in every_schema(schema):
        assert not any(key.startswith("x-") for key in each)
        assert not {"oneOf", "anyOf", "$ref"} & each.keys()
        assert len(str(each.get("pattern", ""))) < 60
        assert not isinstance(each.get("type"), list)


@pytest.mark.parametrize(
    "workflow", [*load_workflows(WORKFLOWS).values(), Workflow.load(EDIT)], ids=lambda w: w.name
)
def test_the_schemas_of_a_workflow_are_valid_and_plain(workflow: Workflow) -> None:
    contract = workflow.contract.input_schema
    schema = input_schema(workflow)
    check_is_plain(schema)
    check_is_plain(output_schema(workflow.contract.output_schema["properties"]))
    assert schema["required"] == contract["required"]
    assert list(schema["properties"]) == list(contract["properties"])
    for name, found in schema["properties"].items():
        for key in ("minimum", "multipleOf", "maxLength", "default", "enum"):
            if workflow.parameters[name].type != "file":
                assert found.get(key) == contract["properties"][name].get(key)
        text = contract["properties"][name].get("description", "")
        assert found.get("description", "").startswith(text)


def test_loras_are_names_or_urls_with_a_strength() -> None:
    loras = input_schema(Workflow.load(EDIT))["properties"]["loras"]
    assert loras["type"] == "array"
    strength = loras["items"]["properties"]["strength"]
    assert loras["items"]["properties"].keys() == {"name", "strength", "url"}
    assert (strength["type"], strength["default"]) == ("number", 1.0)


def test_each_kind_of_input_is_one_plain_type(many: Workflow) -> None:
    schema = input_schema(many)
    check_is_plain(schema)
    properties = schema["properties"]
    assert {name: found["type"] for name, found in properties.items()} == {
        "pictures": "array",
        "mask": "string",
        "model": "string",
        "sampler": "string",
        "noise": "integer",
    }
    assert (properties["pictures"]["minItems"], properties["pictures"]["maxItems"]) == (1, 2)
    assert properties["pictures"]["title"] == "Pictures"
    assert properties["pictures"]["items"]["type"] == "string"
    assert properties["sampler"]["enum"] == ["euler", "heun"]
    assert properties["noise"]["maximum"] == 2**53 - 1
    known = output_schema(many.contract.output_schema["properties"])["properties"]["outputs"]
    assert known["properties"]["images"]["items"]["required"][0] == "url"
    assert known["properties"]["caption"]["type"] == "string"
    assert "images (image, several), caption (text)" in description(many)


def test_arguments_become_inputs_of_the_contract(many: Workflow) -> None:
    arguments: dict[str, Any] = {
        "pictures": [f"sha256:{SHA.upper()}", "https://a.example/1.png", "2.png"],
        "mask": {"sha256": SHA},
        "model": "https://a.example/sd.safetensors",
        "sampler": None,
        "unknown": 1,
    }
    assert inputs_of(many, arguments) == {
        "pictures": [{"sha256": SHA}, {"url": "https://a.example/1.png"}, "2.png"],
        "mask": {"sha256": SHA},
        "model": "https://a.example/sd.safetensors",
        "unknown": 1,
    }
