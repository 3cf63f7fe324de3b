"""Subgraphs are flattened as ComfyUI's editor does it."""

from typing import Any

import pytest

from comfysnap_schema.comfy.ui_export.convert import import_ui
from tests.schema.comfy.ui_export.drawing import (
    CATALOGUE,
    Json,
    inputs,
    node,
    refusals,
    slot,
    subgraph,
    ui,
)


def wrapped(values: Any, text_link: int | None = None, **properties: Any) -> Json:
    """A subgraph of Encode and Latent, with text and width on its outside."""
    inner = subgraph(
        "sub",
        [
            node(
                10,
                "Encode",
                [slot("clip", "CLIP", 1), slot("text", "STRING", 2, widget=True)],
                ["CONDITIONING"],
                ["inner text"],
            ),
            node(11, "Latent", [slot("width", "INT", 3, widget=True)], ["LATENT"], [1, 2]),
        ],
        [
            [1, -10, 0, 10, 0],
            [2, -10, 1, 10, 1],
            [3, -10, 2, 11, 0],
            [4, 10, 0, -20, 0],
            [5, 11, 0, -20, 1],
        ],
        [slot("clip", "CLIP"), slot("text", "STRING"), slot("size", "INT")],
        [slot("cond", "CONDITIONING"), slot("latent", "LATENT")],
    )
    outside = [slot("clip", "CLIP", 1)]
    if text_link is not None:
        outside.append(slot("text", "STRING", text_link, widget=True))
    nodes = [
        node(1, "Loader", outputs=["MODEL", "CLIP"]),
        node(
            2,
            "sub",
            outside,
            ["CONDITIONING", "LATENT"],
            values,
            properties=properties,
        ),
        node(
            3,
            "Sample",
            [slot("positive", "CONDITIONING", 2), slot("latent", "LATENT", 3)],
            values=[1, "fixed", 2],
        ),
        node(4, "Text", outputs=["STRING"], values=["outer"]),
        node(5, "PrimitiveNode", outputs=["STRING"], values=["primitive"]),
    ]
    links = [
        [1, 1, 1, 2, 0, "CLIP"],
        [2, 2, 0, 3, 0, "CONDITIONING"],
        [3, 2, 1, 3, 1, "LATENT"],
        [4, 4, 0, 2, 1, "STRING"],
        [5, 5, 0, 2, 1, "STRING"],
    ]
    return ui(nodes, links, inner)


def test_a_list_that_is_a_value_is_wrapped() -> None:
    graph = import_ui(ui([node(1, "Pick", values=[["p", "q"]])], []), CATALOGUE)
    assert inputs(graph, "1") == {"names": {"__value__": ["p", "q"]}}


def test_get_and_set_nodes_are_followed_by_name_also_out_of_subgraphs() -> None:
    inner = subgraph(
        "sub",
        [
            node(1, "GetNode", outputs=["IMAGE"], values=["pic"]),
            node(2, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0]),
        ],
        [[1, 1, 0, 2, 0], [2, 2, 0, -20, 0]],
        [],
        [slot("out", "IMAGE")],
    )
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "SetNode", [slot("IMAGE", "IMAGE", 1)], ["*"], ["pic"]),
        node(3, "GetNode", outputs=["IMAGE"], values=["pic"]),
        node(4, "Save", [slot("images", "IMAGE", 2)]),
        node(5, "sub", outputs=["IMAGE"]),
        node(6, "Save", [slot("images", "IMAGE", 3)]),
        node(7, "Save", [slot("images", "IMAGE", 4)]),
    ]
    links = [
        [1, 1, 0, 2, 0, "IMAGE"],
        [2, 3, 0, 4, 0, "IMAGE"],
        [3, 5, 0, 6, 0, "IMAGE"],
        [4, 2, 0, 7, 0, "IMAGE"],
    ]
    graph = import_ui(ui(nodes, links, inner), CATALOGUE)
    assert inputs(graph, "4")["images"] == ["1", 0]
    assert inputs(graph, "5:2") == {"by": 2.0, "image": ["1", 0]}
    assert inputs(graph, "6")["images"] == ["5:2", 0]
    assert inputs(graph, "7")["images"] == ["1", 0]


def test_subgraphs_are_flattened_with_ids_of_both() -> None:
    graph = import_ui(wrapped([]), CATALOGUE)
    assert set(graph) == {"1", "2:10", "2:11", "3", "4"}
    assert inputs(graph, "2:10") == {"text": "inner text", "clip": ["1", 1]}
    assert inputs(graph, "2:11") == {"width": 1, "height": 2}
    assert inputs(graph, "3")["positive"] == ["2:10", 0]
    assert inputs(graph, "3")["latent"] == ["2:11", 0]


@pytest.mark.parametrize("values", [["outer text", 99], {"text": "outer text", "size": 99}])
def test_an_instance_stores_the_values_of_the_widgets_it_shows(values: Any) -> None:
    graph = import_ui(wrapped(values), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "outer text"
    assert inputs(graph, "2:11") == {"width": 99, "height": 2}


@pytest.mark.parametrize(("link", "text"), [(4, ["4", 0]), (5, "primitive")])
def test_a_link_into_an_instance_reaches_the_node_inside(link: int, text: Any) -> None:
    graph = import_ui(wrapped(["outer text", 99], link), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == text


def test_values_of_proxy_widgets_are_in_the_inner_nodes_or_in_the_instance() -> None:
    shown = [["-1", "text"], ["11", "height"], ["11", "$$preview"], ["broken"]]
    graph = import_ui(wrapped([], proxyWidgets=shown), CATALOGUE)
    assert inputs(graph, "2:11") == {"width": 1, "height": 2}
    graph = import_ui(wrapped(["shown", 77, None], proxyWidgets=shown), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "shown"
    assert inputs(graph, "2:11") == {"width": 1, "height": 77}


def test_instance_values_that_match_no_list_of_widgets_are_rejected() -> None:
    assert refusals(wrapped([1, 2, 3])) == [("widget_values", "2:10"), ("widget_values", "2:11")]


@pytest.mark.parametrize("mode", [2, 4])
def test_a_disabled_instance_adds_no_nodes(mode: int) -> None:
    data = wrapped([])
    data["nodes"][1]["mode"] = mode
    graph = import_ui(data, CATALOGUE)
    assert set(graph) == {"1", "3", "4"}
    assert "positive" not in inputs(graph, "3")


def test_nested_subgraphs_are_flattened_and_values_pass_through_all_levels() -> None:
    inner = subgraph(
        "inner",
        [
            node(
                1,
                "Scale",
                [slot("image", "IMAGE", 1), slot("by", "FLOAT", 2, widget=True)],
                ["IMAGE"],
                [1.0],
            )
        ],
        [[1, -10, 0, 1, 0], [2, -10, 1, 1, 1], [3, 1, 0, -20, 0]],
        [slot("image", "IMAGE"), slot("by", "FLOAT")],
        [slot("image", "IMAGE")],
    )
    outer = subgraph(
        "outer",
        [
            node(
                1,
                "inner",
                [slot("image", "IMAGE", 1), slot("by", "FLOAT", 2, widget=True)],
                ["IMAGE"],
                [2.0],
            ),
            node(2, "inner", [slot("image", "IMAGE", 3)], ["IMAGE"], [3.0]),
        ],
        [[1, -10, 0, 1, 0], [2, -10, 1, 1, 1], [3, 1, 0, 2, 0], [4, 2, 0, -20, 0]],
        [slot("image", "IMAGE"), slot("scale", "FLOAT")],
        [slot("image", "IMAGE")],
    )
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "outer", [slot("image", "IMAGE", 1)], ["IMAGE"], [9.0]),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    graph = import_ui(ui(nodes, links, inner, outer), CATALOGUE)
    assert inputs(graph, "2:1:1") == {"by": 9.0, "image": ["1", 0]}
    assert inputs(graph, "2:2:1") == {"by": 3.0, "image": ["2:1:1", 0]}
    assert inputs(graph, "3")["images"] == ["2:2:1", 0]


def test_a_subgraph_may_pass_its_input_through_or_leave_an_output_open() -> None:
    through = subgraph(
        "sub",
        [],
        [[1, -10, 0, -20, 0]],
        [slot("image", "IMAGE")],
        [slot("image", "IMAGE"), slot("open", "IMAGE")],
    )
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "sub", [slot("image", "IMAGE", 1)], ["IMAGE", "IMAGE"]),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
        node(4, "Save", [slot("images", "IMAGE", 3)]),
    ]
    links = [[1, 1, 0, 2, 0, "I"], [2, 2, 0, 3, 0, "I"], [3, 2, 1, 4, 0, "I"]]
    graph = import_ui(ui(nodes, links, through), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["1", 0]
    assert "images" not in inputs(graph, "4")
    nodes[1]["mode"] = 2
    graph = import_ui(ui(nodes, links, through), CATALOGUE)
    assert "images" not in inputs(graph, "3")


def test_a_link_from_a_missing_subgraph_input_is_rejected() -> None:
    inner = subgraph(
        "sub", [node(1, "Save", [slot("images", "IMAGE", 1)])], [[1, -10, 4, 1, 0]], [], []
    )
    assert refusals(ui([node(7, "sub")], [], inner)) == [("broken_link", "7:1")]


def test_subgraphs_that_contain_each_other_are_rejected() -> None:
    one = subgraph("one", [node(1, "two")], [], [], [])
    two = subgraph("two", [node(1, "one")], [], [], [])
    assert refusals(ui([node(1, "one")], [], one, two)) == [("broken_link", "?")]


def test_subgraphs_that_expand_to_too_many_nodes_are_rejected() -> None:
    levels = [
        subgraph(f"s{level}", [node(n, f"s{level + 1}") for n in range(10)], [], [], [])
        for level in range(12)
    ]
    last = subgraph("s12", [node(1, "Latent")], [], [], [])
    assert refusals(ui([node(1, "s0")], [], *levels, last)) == [("too_large", "?")]


def test_a_missing_inner_slot_makes_no_widget() -> None:
    inner = subgraph(
        "sub",
        [node(1, "Latent", [slot("width", "INT", 1, widget=True)], values=[5, 6])],
        [[1, -10, 0, 1, 0], [2, -10, 1, 1, 9], [3, -10, 1, 99, 0]],
        [slot("w", "INT"), slot("ghost", "INT")],
        [],
    )
    graph = import_ui(ui([node(7, "sub", values=[50])], [], inner), CATALOGUE)
    assert inputs(graph, "7:1") == {"width": 50, "height": 6}
