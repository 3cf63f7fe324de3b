"""Generated checks of inputs accept what the contract's JSON Schema accepts."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

from comfysnap_schema.workflow import Workflow
from tests.typescript.conftest import RunNode
from tests.typescript.workflows import everything, lists

SHA256 = "0123456789abcdef" * 4
URL = "https://example.org/a.safetensors"
VALUES: list[Any] = [
    None, True, False, 0, 1, 1.0, 2, 2.5, 3, 16, 16.0, 17, 32, 64, 65, -1, 0.5, 1.5,
    "", "a", "b", "1", "1.0", "auto", "toolong", "äöü€😀", "12345678901234567890", "0", "-0", "00",
    "-1", "+1", " 1", "1\n", "1_0", "18446744073709551615", "18446744073709551616",
    "-9223372036854775808", "-9223372036854775809", "9" * 50, [], {}, [1], [1, 2], [64, 64],
    [64, 513], [1, 2, 3], ["a"], {"a": [None, True, 1.5, "x"]},
    {"sha256": SHA256}, {"sha256": SHA256.upper()}, {"sha256": 1}, {"url": URL},
    {"url": "ftp://example.org"}, {"url": "https://" + "a" * 5000}, {"url": URL, "sha256": SHA256},
    {"url": URL, "sha256": None}, {"url": URL, "sha256": "x"}, {"data": "aGk="}, {"data": 5},
    {"data": "aGk=", "content_type": "image/png"}, {"data": "", "content_type": "x" * 300},
    [{"sha256": SHA256}], [{"url": URL}, {"data": "aGk="}], [{"url": URL}] * 3,
    [{"name": "a.safetensors"}], [{"name": "a.safetensors"}] * 4, [{"name": ""}],
    [{"name": "a" * 1025}], [{"name": "a", "strength": 0}], [{"name": "a", "strength": -1}],
    [{"name": "a", "strength": 101}], [{"name": "a", "strength": None}],
    [{"name": "a", "strength": "1"}], [{"name": "a", "clip_strength": None}],
    [{"name": "a", "clip_strength": 101}], [{"name": "a", "weight": 1}], [{"strength": 1}],
    [{"url": URL}], [{"url": URL, "sha256": SHA256, "strength": 0.5}], [{"url": "x"}],
    [{"url": URL, "name": "a"}], [{"name": "ink.safetensors"}], [{"name": "oil.safetensors"}],
    [{"name": "style/oil.safetensors", "strength": -5.5}], "model.safetensors",
]  # fmt: skip


def valid_of(workflow: Workflow) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "string": "a", "integer": 16, "file": {"sha256": SHA256}, "json": {},
        "model": "a.safetensors",
    }  # fmt: skip
    required = [p for p in workflow.parameters.values() if p.required]
    return {p.name: [plain[p.type]] if p.is_list else plain[p.type] for p in required}


def cases(workflow: Workflow) -> Iterator[dict[str, Any]]:
    valid = valid_of(workflow)
    yield valid
    for name in valid:
        yield {key: value for key, value in valid.items() if key != name}
    for name in [*workflow.parameters, "unknown", "constructor"]:
        for value in VALUES:
            yield {**valid, name: value}
    drawn = random.Random(7)
    for _ in range(300):
        names = drawn.sample([*workflow.parameters], 3)
        yield {**valid, **{name: drawn.choice(VALUES) for name in names}}


def test_they_agree_on_any_value_of_any_input(run_node: RunNode, tmp_path: Path) -> None:
    requests: list[dict[str, Any]] = [
        {"workflow": workflow.name, "inputs": inputs}
        for workflow in (everything(tmp_path), lists(tmp_path))
        for inputs in cases(workflow)
    ]
    (tmp_path / "cases.json").write_text(json.dumps(requests))
    accepted = run_node("inputs", tmp_path / "cases.json")
    schemas = {
        workflow.name: jsonschema_rs.validator_for(workflow.contract.input_schema)
        for workflow in (everything(tmp_path), lists(tmp_path))
    }
    expected = [schemas[one["workflow"]].is_valid(one["inputs"]) for one in requests]
    different = [
        (one, here, there)
        for one, here, there in zip(requests, accepted, expected, strict=True)
        if here is not there
    ]
    assert different == []
    assert 0.05 < sum(expected) / len(expected) < 0.95
