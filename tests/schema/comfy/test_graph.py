"""API-format graphs: reading, addressing, hashing."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.graph import (
    MAX_GRAPH_BYTES,
    Graph,
    InputPath,
    graph_hash,
    is_link,
    parse_graph,
    read_graph,
    title_of,
    without_notes,
)
from comfysnap_schema.wire.errors import GraphError

NODE: dict[str, Any] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ([], "not_a_graph"),
        ("x", "not_a_graph"),
        ({}, "empty_graph"),
        ({"prompt": {}}, "empty_graph"),
        ({"nodes": [], "links": []}, "ui_format"),
        ({"1": 3}, "invalid_node"),
        ({"1": {"class_type": 3, "inputs": {}}}, "invalid_node"),
        ({"1": {"class_type": "X", "inputs": []}}, "invalid_node"),
    ],
)
def test_invalid_graphs_have_an_error_code(data: Any, code: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "wrapped",
    [
        {"client_id": "x", "prompt": {"9": NODE}},
        {"input": {"workflow": {"9": NODE}, "images": []}},
        {"input": {"prompt": {"9": NODE}}, "policy": {}},
        {"workflow": {"nodes": [], "links": []}, "output": {"9": NODE}},
        {"prompt": {"9": NODE}, "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}},
        {"prompt": json.dumps({"9": NODE}), "workflow": json.dumps({"nodes": []})},
        {"input": {"workflow_json": json.dumps({"9": NODE})}},
        [5, "0b1c", {"9": NODE}, {"client_id": "x"}, ["9"]],
        {"0b1c": {"prompt": [5, "0b1c", {"9": NODE}, {}, ["9"]], "outputs": {}, "status": {}}},
    ],
)
def test_a_graph_is_taken_out_of_what_it_is_wrapped_in(wrapped: Any) -> None:
    assert parse_graph(wrapped) == {"9": NODE}


@pytest.mark.parametrize(
    "data",
    [{"prompt": "a fox"}, {"prompt": "{"}, [5, "0b1c"], {"prompt": []}, {"prompt": [1, 2, 3]}],
)
def test_texts_and_lists_without_a_graph_are_no_graph(data: Any) -> None:
    with pytest.raises(GraphError):
        parse_graph(data)


@pytest.mark.parametrize("name", ["prompt", "output", "workflow", "input"])
def test_a_node_called_like_a_wrapper_is_a_node(name: str) -> None:
    assert parse_graph({name: NODE}) == {name: NODE}


def test_a_wrapped_ui_export_is_reported_as_such() -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph({"input": {"workflow": {"nodes": [], "links": []}}})
    assert caught.value.code == "ui_format"


def test_what_a_saved_graph_has_beside_its_inputs_is_left_out() -> None:
    saved = {"9": {**NODE, "_meta": {"title": "x"}, "is_changed": [None], "widgets": 3}}
    assert parse_graph(saved) == {"9": {**NODE, "_meta": {"title": "x"}}}


def test_notes_of_the_editor_are_left_out_unless_they_are_real_nodes() -> None:
    graph = parse_graph(
        {
            "1": {"class_type": "Note", "inputs": {"text": "hi"}},
            "2": {"class_type": "MarkdownNote", "inputs": {"": "hi"}},
            "9": NODE,
        }
    )
    assert without_notes(graph, ()) == ({"2": graph["2"], "9": NODE}, ("1",))
    assert without_notes(graph, {"Note"}) == (graph, ())
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": []}}
    assert without_notes(graph)[1] == ("1", "2")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b" " * (MAX_GRAPH_BYTES + 1), "too_large"),
    ],
    ids=["cut off", "no text", "deep", "large"],
)
def test_an_unreadable_file_has_an_error_code(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    assert (caught.value.code, caught.value.file) == (code, str(path))


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_know_is_null(tmp_path: Path, number: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(f'{{"1": {{"class_type": "Node", "inputs": {{"x": {number}, "y": 1.5}}}}}}')
    assert read_graph(path)["1"]["inputs"] == {"x": None, "y": 1.5}


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as caught:
        read_graph(tmp_path / "none.json")
    assert caught.value.code == "unreadable"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"9": NODE}), encoding="utf-8-sig")
    assert read_graph(path) == {"9": NODE}


@pytest.mark.parametrize(
    ("text", "node", "name"),
    [
        ("6.inputs.text", "6", "text"),
        ("92:3.inputs.resize_type.width", "92:3", "resize_type.width"),
        ("n.3.inputs.text", "n.3", "text"),
    ],
)
def test_a_path_splits_at_its_inputs(text: str, node: str, name: str) -> None:
    path = InputPath.parse(text)
    assert (path.node, path.name, str(path)) == (node, name, text)


@pytest.mark.parametrize("text", ["", "6", "6.text", "6.inputs", "6.inputs.", ".inputs.x", "a.b.c"])
def test_an_invalid_path_is_rejected(text: str) -> None:
    with pytest.raises(GraphError) as caught:
        InputPath.parse(text)
    assert caught.value.code == "invalid_path"


@pytest.mark.parametrize(
    ("value", "link"),
    [
        (["1", 0], True), (["1", 0.0], True), ([1, 0], False), (["1", True], False),
        (["1"], False), ("1", False), (["1", 0, 0], False), (["a", "b"], False),
    ],
)  # fmt: skip
def test_links_are_recognized_as_in_comfyui(value: object, link: bool) -> None:
    assert is_link(value) is link


def test_a_node_is_named_by_its_title_or_its_class() -> None:
    graph: Graph = {
        "1": {"class_type": "A", "inputs": {}, "_meta": {"title": "Mine"}},
        "2": {"class_type": "B", "inputs": {}, "_meta": {"title": ""}},
        "3": {"class_type": "C", "inputs": {}},
        "4": {"class_type": "D", "inputs": {}, "_meta": []},  # pyright: ignore -- a file may
    }
    assert [title_of(graph, node) for node in graph] == ["Mine", "B", "C", "D"]


def test_the_hash_covers_classes_and_inputs_but_not_titles() -> None:
    titled = {"9": {**NODE, "_meta": {"title": "x"}}}
    assert graph_hash(parse_graph(titled)) == graph_hash(parse_graph({"9": NODE}))
    other = {"9": {**NODE, "inputs": {"images": ["3", 0]}}}
    assert graph_hash(parse_graph(other)) != graph_hash(parse_graph({"9": NODE}))
