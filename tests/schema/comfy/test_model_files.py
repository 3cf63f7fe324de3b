"""Names of model files in the inputs of nodes."""

from typing import Any

import pytest

from comfysnap_schema.comfy import Graph, model_names, with_forward_slashes


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a.safetensors", ["a.safetensors"]),
        ("XL\\a.ckpt", ["XL/a.ckpt"]),
        ("a fox", []),
        (5, []),
        (["4", 0], []),
        ({"on": True, "lora": "a.safetensors"}, ["a.safetensors"]),
        ([{"lora": "a.pt"}, {"lora": "b.pt"}], ["a.pt", "b.pt"]),
        ("a cat, (embedding:neat:1.2), [embedding:x/y.pt]", ["neat", "x/y.pt"]),
        ("embedding:sub\\neat.", ["sub/neat"]),
        ("myembedding:no", []),
    ],
)
def test_names_are_found_in_values_objects_and_texts(value: Any, names: list[str]) -> None:
    assert [found.name for found in model_names("input", value)] == names


@pytest.mark.parametrize("switch", ["on", "enabled", "active"])
def test_a_row_that_is_switched_off_is_known_to_be(switch: str) -> None:
    rows = {"rows": [{switch: False, "lora": "a.pt"}, {switch: True, "lora": "b.pt"}]}
    assert [found.is_on for found in model_names("input", rows)] == [False, True]


def test_names_of_windows_become_those_of_linux_and_nothing_else_changes() -> None:
    inputs: dict[str, Any] = {
        "name": "XL\\a.safetensors",
        "text": "a \\(good\\) embedding:XL\\neat \\o/",
        "row": {"on": True, "lora": "XL\\b.safetensors", "strength": 1},
        "rows": [{"lora": "c\\d.pt"}],
        "link": ["4", 0],
        "count": 3,
        "folder": "C:\\pictures",
    }
    graph: Graph = {"1": {"class_type": "Any", "inputs": inputs}}
    changed, paths = with_forward_slashes(graph)
    assert paths == ("1.inputs.name", "1.inputs.text", "1.inputs.row", "1.inputs.rows")
    assert changed["1"]["inputs"] == {
        **inputs,
        "name": "XL/a.safetensors",
        "text": "a \\(good\\) embedding:XL/neat \\o/",
        "row": {"on": True, "lora": "XL/b.safetensors", "strength": 1},
        "rows": [{"lora": "c/d.pt"}],
    }
    assert graph["1"]["inputs"] is inputs
    assert with_forward_slashes(changed) == (changed, ())
