"""The page's modules by themselves, under Node.js."""

import hashlib
import json
from typing import Any, cast

import pytest

from comfysnap_schema.workflow import Workflow
from tests.server.gateway.page.conftest import RunModule


@pytest.fixture
def call(run_module: RunModule) -> RunModule:
    """Call a function of a module."""

    def call(module: str, name: str, *arguments: object) -> Any:
        data = {"module": module, "name": name, "arguments": arguments}
        return run_module("units.js", data)

    return call


def test_fields_keep_the_order_of_the_map(call: RunModule, workflows: dict[str, Workflow]) -> None:
    for workflow in workflows.values():
        fields = call("fields", "fieldsOf", workflow.contract.input_schema)
        assert [field["name"] for field in fields] == list(workflow.parameters)


def test_rarely_used_fields_are_folded_away(
    call: RunModule, workflows: dict[str, Workflow]
) -> None:
    fields = call("fields", "fieldsOf", workflows["sdxl"].contract.input_schema)
    folded = [field["name"] for field in fields if field["folded"]]
    assert folded == ["refine_from_step", "guidance", "sampler", "scheduler", "count"]


def test_one_field_alone_is_not_folded_away(
    call: RunModule, workflows: dict[str, Workflow]
) -> None:
    fields = call("fields", "fieldsOf", workflows["flux"].contract.input_schema)
    assert [field["name"] for field in fields if field["folded"]] == []


@pytest.mark.parametrize(
    ("rules", "slider"),
    [
        ({"minimum": 1, "maximum": 50}, {"minimum": 1, "maximum": 50, "step": 1}),
        (
            {"minimum": 10, "maximum": 70, "multipleOf": 16},
            {"minimum": 16, "maximum": 64, "step": 16},
        ),
        ({"minimum": 0, "maximum": 16777215}, None),
        ({"minimum": 0}, None),
        ({"minimum": 5, "maximum": 5}, None),
    ],
)
def test_a_slider_has_only_valid_positions(
    call: RunModule, rules: dict[str, int], slider: dict[str, int] | None
) -> None:
    schema = {"properties": {"x": {"type": "integer", **rules}}}
    (field,) = call("fields", "fieldsOf", schema)
    assert field.get("slider") == slider


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("", {}),
        ("7", {"value": 7}),
        ("9007199254740991", {"value": 2**53 - 1}),
        ("9007199254740993", {"value": "9007199254740993"}),
        ("18446744073709551615", {"value": "18446744073709551615"}),
        ("18446744073709551616", {"problem": "must be at most 18446744073709551615"}),
        ("-1", {"problem": "must be at least 0"}),
        ("1.5", {"problem": "must be a whole number"}),
        ("1e3", {"problem": "must be a whole number"}),
    ],
)
def test_a_seed_is_sent_exactly(
    call: RunModule, workflows: dict[str, Workflow], text: str, sent: dict[str, Any]
) -> None:
    schema = workflows["flux"].contract.input_schema
    rules = {**schema["properties"]["seed"], "maximum": str(2**64 - 1)}  # as the page reads it
    (field,) = call("fields", "fieldsOf", {"properties": {"seed": rules}})
    assert call("values", "valueOf", field, text) == sent


@pytest.mark.parametrize(
    "value",
    [2**64 - 1, -(2**63), 2**53 - 1, 1e300, 0.1234567890123456789, "9007199254740993",
     'a "9007199254740993" \\\\" 18446744073709551615, ', {"18446744073709551615": [2**60 + 1, 1]}],
)  # fmt: skip
def test_whole_numbers_of_the_server_stay_exact(call: RunModule, value: Any) -> None:
    for text in (json.dumps(value), json.dumps({"a": [value]}, ensure_ascii=False, indent=1)):
        assert call("json", "parse", text) == exact(json.loads(text))


def exact(value: Any) -> Any:
    """Whole numbers beyond 2^53 as digits."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [exact(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, int) and abs(value) >= 2**53 else value


def test_values_that_equal_their_default_are_left_out(
    call: RunModule, workflows: dict[str, Workflow]
) -> None:
    fields = call("fields", "fieldsOf", workflows["img2img"].contract.input_schema)
    (strength,) = [field for field in fields if field["name"] == "strength"]
    (negative,) = [field for field in fields if field["name"] == "negative_prompt"]
    assert call("values", "valueOf", strength, "0.60") == {}
    assert call("values", "valueOf", strength, "0.61") == {"value": 0.61}
    assert call("values", "valueOf", negative, "") == {}


def test_a_text_that_was_cleared_is_sent_as_empty(call: RunModule) -> None:
    schema = {"properties": {"text": {"type": "string", "default": "a boat"}}}
    (field,) = call("fields", "fieldsOf", schema)
    assert call("values", "valueOf", field, "") == {"value": ""}


def test_files_are_hashed_without_the_browsers_help(run_module: RunModule) -> None:
    lengths = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 1000, 4 * 1024 * 1024 + 3]
    hashes = run_module("hashes.js", lengths)
    for length in lengths:
        content = bytes((index * 31 + 7) & 255 for index in range(length))
        assert hashes[str(length)] == [hashlib.sha256(content).hexdigest()] * 2


def test_events_are_read_however_the_stream_is_cut(run_module: RunModule) -> None:
    stream = ": ping\r\n\r\nid: 3\r\nevent: status\r\ndata: {\r\ndata: }\r\n\r\ndata: x: y\n\n"
    found = run_module("streams.js", stream)
    assert len(found) == len(stream) + 1
    assert all(
        events == [{"id": "3", "data": "{\n}"}, {"id": "3", "data": "x: y"}] for events in found
    )
