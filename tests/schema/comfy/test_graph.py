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


def test_a_request_body_is_unwrapped() -> None:
    assert parse_graph({"client_id": "x", "prompt": {"9": NODE}}) == {"9": NODE}


def test_a_node_called_prompt_is_a_node() -> None:
    assert parse_graph({"prompt": NODE}) == {"prompt": NODE}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"1": NaN}', "invalid_json"),
        (b" " * (MAX_GRAPH_BYTES + 1), "too_large"),
    ],
    ids=["cut off", "no text", "deep", "not a number", "large"],
)
def test_an_unreadable_file_has_an_error_code(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    assert (caught.value.code, caught.value.file) == (code, str(path))


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
    ],
)
def test_a_path_splits_at_most_twice(text: str, node: str, name: str) -> None:
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
