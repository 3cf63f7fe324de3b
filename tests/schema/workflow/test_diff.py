"""What changed between two contracts, and the history of a workflow's contracts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire.errors import WorkflowError
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_schema.workflow.contract import Contract, contract_of
from comfysnap_schema.workflow.diff import compare
from comfysnap_schema.workflow.history import CONTRACTS_FILE, History, read_history
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_schema.workflow.parameters import Parameter
from tests.schema.conftest import MakeWorkflow, comfysnap


def contract(*parameters: Parameter, **outputs: OutputSpec) -> Contract:
    outputs = outputs or {"images": OutputSpec(node="9", many=True)}
    return contract_of("x", {p.name: p for p in parameters}, outputs)


def one(**rules: Any) -> Contract:
    return contract(replace(Parameter(name="a", type="integer", default=4), **rules))


def many(**rules: Any) -> Contract:
    return one(**{"each": True, "default": [], "min_items": 0, "max_items": 3, **rules})


def loras(**rules: Any) -> Contract:
    given: dict[str, Any] = {
        "minimum": -100.0,
        "maximum": 100.0,
        "default": [],
        "max_items": 8,
        **rules,
    }
    return one(type="loras", **given)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (one(), many(), [("kind_changed", True)]),
        (many(), loras(max_items=3), [("kind_changed", True)]),
        (many(), many(max_items=4), [("wider", False)]),
        (many(), many(max_items=2), [("narrower", True)]),
        (many(), many(min_items=1), [("narrower", True)]),
        (many(min_items=2), many(min_items=1), [("wider", False)]),
        (many(), many(minimum=1), [("narrower", True)]),
        (many(), many(type="number"), [("wider", False)]),
        (many(type="file", kind=Kind.IMAGE), many(type="file", kind=Kind.MASK),
         [("kind_changed", True)]),
        (many(default=None), many(), [("narrower", True)]),
        (loras(), loras(max_items=9), [("wider", False)]),
        (loras(), loras(maximum=2.0), [("narrower", True), ("narrower", True)]),
        (loras(), loras(choices=("a",)), [("narrower", True), ("wider", False)]),
        (loras(choices=("a",)), loras(choices=("a", "b")), [("wider", False)]),
        (loras(choices=("a", "b")), loras(choices=("a",)), [("narrower", True)]),
        (contract(), one(), [("input_added", False)]),
        (contract(), one(required=True, default=None), [("input_added", True)]),
        (one(), contract(), [("input_removed", True)]),
        (one(), one(required=True, default=None), [("now_required", True)]),
        (one(required=True, default=None), one(), [("now_optional", False)]),
        (one(), one(default=5), []),
        (one(), one(title="A", description="B", random=True, multiline=True), []),
        (one(minimum=1), one(minimum=2), [("narrower", True)]),
        (one(minimum=2), one(minimum=1), [("wider", False)]),
        (one(minimum=2), one(minimum=2.0), []),
        (one(), one(maximum=9), [("narrower", True)]),
        (one(maximum=9), one(), [("wider", False)]),
        (one(multiple_of=4), one(multiple_of=8), [("narrower", True)]),
        (one(multiple_of=8), one(multiple_of=4), [("wider", False)]),
        (one(multiple_of=8), one(multiple_of=12), [("narrower", True)]),
        (one(multiple_of=8), one(), [("wider", False)]),
        (one(), one(type="number"), [("wider", False)]),
        (one(type="number"), one(), [("narrower", True)]),
        (one(), one(type="string", default="x"), [("narrower", True)]),
        (one(), one(type="json"), [("wider", False)]),
        (one(type="json"), one(), [("narrower", True)]),
        (one(minimum=0, maximum=2**64 - 1), one(minimum=0, maximum=2**60), [("narrower", True)]),
        (one(default=None), one(), [("narrower", True)]),
        (one(type="string", default="x"), one(type="string", default="x", max_length=3),
         [("narrower", True)]),
        (one(choices=(1, 2)), one(choices=(2, 1)), []),
        (one(choices=(1, 2)), one(choices=(1, 2, 3)), [("wider", False)]),
        (one(choices=(1, 2)), one(choices=(1,)), [("narrower", True)]),
        (one(choices=(1, 2)), one(choices=(1, 3)), [("narrower", True), ("wider", False)]),
        (one(choices=(1, 2)), one(), [("wider", False)]),
        (one(), one(choices=(1, 2)), [("narrower", True)]),
        (one(choices=(1, 2.5), type="number"), one(choices=(1,)), [("narrower", True)] * 2),
        (one(type="file", kind=Kind.IMAGE, default=None),
         one(type="file", kind=Kind.AUDIO, default=None), [("kind_changed", True)]),
        (one(type="file", kind=Kind.IMAGE, default=None),
         one(type="file", kind=Kind.IMAGE, default=None, required=True),
         [("now_required", True), ("narrower", True)]),
        (one(type="file", kind=Kind.IMAGE, default=None), one(), [("kind_changed", True)]),
        (contract(a=OutputSpec(node="1")),
         contract(a=OutputSpec(node="2"), b=OutputSpec(node="3")), [("output_added", False)]),
        (contract(a=OutputSpec(node="1"), b=OutputSpec(node="2")),
         contract(a=OutputSpec(node="1")), [("output_removed", True)]),
        (contract(a=OutputSpec(node="1")), contract(a=OutputSpec(node="1", many=True)),
         [("kind_changed", True)]),
        (contract(a=OutputSpec(node="1")), contract(a=OutputSpec(node="1", kind=Kind.VIDEO)),
         [("kind_changed", True)]),
        (contract(a=OutputSpec(node="1")), contract(a=OutputSpec(node="1", description="A")), []),
    ],
)  # fmt: skip
def test_a_change_is_reported_as_breaking_or_not(
    old: Contract, new: Contract, expected: list[tuple[str, bool]]
) -> None:
    changes = compare(old, new)
    assert [(change.code, change.breaking) for change in changes] == expected
    assert bool(changes) == (old.hash != new.hash)
    fields = {change.field.partition("[]")[0] for change in changes}
    assert fields <= {"inputs.a", "outputs.a", "outputs.b"}


def test_a_change_of_the_items_of_a_list_names_them() -> None:
    changes = compare(many(), many(minimum=1))
    assert [(change.field, change.message) for change in changes] == [
        ("inputs.a[]", "minimum was unbounded, is now 1")
    ]
    changes = compare(loras(choices=("a",)), loras())
    assert changes[0].field == "inputs.a[].name"
    assert compare(one(), many())[0].message == "was a plain value, is now list of a plain value"


def test_a_compatible_change_keeps_the_earlier_hashes() -> None:
    first, second, third = one(maximum=4), one(maximum=5), one(maximum=6)
    history = History(first).advance(second).advance(third)
    assert history.compatible == (second.hash, first.hash)
    assert history.accepted == {first.hash, second.hash, third.hash}
    assert history.advance(third) == history


def test_a_breaking_change_starts_a_new_history() -> None:
    history = History(one(maximum=4)).advance(one(maximum=5)).advance(one(maximum=3))
    assert history.compatible == ()


def test_a_history_survives_the_file(tmp_path: Path) -> None:
    history = History(one(maximum=4)).advance(one(maximum=5))
    path = tmp_path / CONTRACTS_FILE
    path.write_text(history.dumps())
    read = read_history(path)
    assert read is not None
    assert read.accepted == history.accepted
    assert read.dumps() == history.dumps()
    assert read_history(tmp_path / "none.json") is None


@pytest.mark.parametrize("damage", ["{", "[]", '{"hash": 1}', "hash", "input"])
def test_a_damaged_history_is_reported(tmp_path: Path, damage: str) -> None:
    record = json.loads(History(one()).dumps())
    if damage == "hash":
        record["hash"] = "0" * 16
    elif damage == "input":
        record["input"] = {"properties": {}, "required": []}
    path = tmp_path / CONTRACTS_FILE
    path.write_text(json.dumps(record) if damage in ("hash", "input") else damage)
    with pytest.raises(WorkflowError) as caught:
        read_history(path)
    assert caught.value.code == "invalid_contracts"


def test_a_history_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        read_history(tmp_path)
    assert caught.value.code == "unreadable"


def test_a_workflow_accepts_callers_of_its_compatible_contracts(
    make_workflow: MakeWorkflow,
) -> None:
    folder = make_workflow()
    first = Workflow.load(folder)
    assert first.compatible == {first.contract.hash}
    (folder / CONTRACTS_FILE).write_text(first.history.dumps())
    spec = folder / "workflow.toml"
    spec.write_text(spec.read_text().replace("4096", "8192"))
    second = Workflow.load(folder)
    assert second.compatible == {first.contract.hash, second.contract.hash}


def test_the_exit_code_of_diff_is_1_for_breaking_changes(make_workflow: MakeWorkflow) -> None:
    old, new = make_workflow(folder="old"), make_workflow(folder="new")
    assert comfysnap("diff", old, new)[0] == 0
    spec = new / "workflow.toml"
    spec.write_text(spec.read_text().replace("4096", "8192"))
    code, output = comfysnap("diff", old, new)
    assert code == 0
    assert "inputs.width" in output
    code, output = comfysnap("diff", new, old)
    assert code == 1
    assert "BREAKS inputs.width" in output
    (old / CONTRACTS_FILE).write_text(Workflow.load(old).history.dumps())
    assert comfysnap("diff", old / CONTRACTS_FILE, new)[0] == 0


def test_diff_of_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        comfysnap("diff", tmp_path / "none.json", tmp_path)
    assert caught.value.code == "unreadable"
