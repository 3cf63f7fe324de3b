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
    ]
    if text_link is not None:
        links.append([text_link, text_link, 0, 2, 1, "STRING"])
    return ui(nodes, links, inner)


def test_a_list_that_is_a_value_is_wrapped() -> None:
    graph = import_ui(ui([node(1, "Pick", values=[["p", "q"]])], []), CATALOGUE)
    assert inputs(graph, "1") == {"names": {"__value__": ["p", "q"]}}


def test_get_and_set_nodes_are_followed_by_name_also_out_of_subgraphs() -> None:
    inner = subgraph(
        "sub",
        [
            node(11, "GetNode", outputs=["IMAGE"], values=["pic"]),
            node(12, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0]),
        ],
        [[1, 11, 0, 12, 0], [2, 12, 0, -20, 0]],
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
    assert inputs(graph, "5:12") == {"by": 2.0, "image": ["1", 0]}
    assert inputs(graph, "6")["images"] == ["5:12", 0]
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


@pytest.mark.parametrize(("link", "text"), [(4, ["4", 0]), (5, "inner text")])
def test_a_link_into_an_instance_reaches_the_node_inside_unless_from_a_primitive(
    link: int, text: Any
) -> None:
    graph = import_ui(wrapped(["outer text", 99], link), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == text


SHOWN = [["-1", "text"], ["11", "height"], ["11", "$$preview"]]


def test_widgets_that_an_instance_shows_have_its_values_or_those_of_the_inner_nodes() -> None:
    graph = import_ui(wrapped([], proxyWidgets=SHOWN), CATALOGUE)
    assert inputs(graph, "2:11") == {"width": 1, "height": 2}
    graph = import_ui(wrapped(["shown", 77, None], proxyWidgets=SHOWN), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "shown"
    assert inputs(graph, "2:11") == {"width": 77, "height": 77}


def test_a_list_of_shown_widgets_that_is_partly_invalid_is_ignored() -> None:
    graph = import_ui(wrapped(["shown", 77], proxyWidgets=[*SHOWN, ["broken"]]), CATALOGUE)
    assert inputs(graph, "2:11") == {"width": 77, "height": 2}


def test_values_of_an_instance_go_to_its_inputs_in_their_order() -> None:
    graph = import_ui(wrapped(["a", 2, 3]), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "a"
    assert inputs(graph, "2:11")["width"] == 2


def test_a_widget_that_the_class_does_not_have_keeps_its_place_among_the_values() -> None:
    inner = subgraph(
        "sub",
        [
            node(11, "Decode", [slot("tiles", "INT", 1, widget=True)], ["IMAGE"]),
            node(12, "Latent", [slot("width", "INT", 2, widget=True)], ["LATENT"], [1, 2]),
        ],
        [[1, -10, 0, 11, 0], [2, -10, 1, 12, 0]],
        [slot("tiles", "INT"), slot("width", "INT")],
        [],
    )
    graph = import_ui(ui([node(7, "sub", values=[4, 640])], [], inner), CATALOGUE)
    assert inputs(graph, "7:11") == {}
    assert inputs(graph, "7:12") == {"width": 640, "height": 2}


def test_values_that_the_editor_set_aside_come_before_the_listed_ones() -> None:
    why = {"reason": "missingSourceNode", "attemptedAtVersion": 1}
    aside = [
        {"originalEntry": ["-1", "text"], "hostValue": "kept", **why},
        {"originalEntry": ["-1", "text"], "hostValue": "later", **why},
        {"originalEntry": ["-1", "size"], **why},
        {"originalEntry": ["11", "height"], "hostValue": 9, **why},
    ]
    graph = import_ui(wrapped(["a", 2], proxyWidgetErrorQuarantine=aside), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "kept"
    assert inputs(graph, "2:11") == {"width": 2, "height": 2}


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
                11,
                "Scale",
                [slot("image", "IMAGE", 1), slot("by", "FLOAT", 2, widget=True)],
                ["IMAGE"],
                [1.0],
            )
        ],
        [[1, -10, 0, 11, 0], [2, -10, 1, 11, 1], [3, 11, 0, -20, 0]],
        [slot("image", "IMAGE"), slot("by", "FLOAT")],
        [slot("image", "IMAGE")],
    )
    outer = subgraph(
        "outer",
        [
            node(
                21,
                "inner",
                [slot("image", "IMAGE", 1), slot("by", "FLOAT", 2, widget=True)],
                ["IMAGE"],
                [2.0],
            ),
            node(22, "inner", [slot("image", "IMAGE", 3)], ["IMAGE"], [3.0]),
        ],
        [[1, -10, 0, 21, 0], [2, -10, 1, 21, 1], [3, 21, 0, 22, 0], [4, 22, 0, -20, 0]],
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
    assert inputs(graph, "2:21:11") == {"by": 9.0, "image": ["1", 0]}
    assert inputs(graph, "2:22:11") == {"by": 3.0, "image": ["2:21:11", 0]}
    assert inputs(graph, "3")["images"] == ["2:22:11", 0]


def test_nodes_of_subgraphs_get_new_ids_when_theirs_are_taken() -> None:
    inner = subgraph(
        "inner",
        [
            node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
            node(6, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0]),
        ],
        [[1, 1, 0, 6, 0], [2, 6, 0, -20, 0]],
        [],
        [slot("image", "IMAGE")],
    )
    outer = subgraph(
        "outer",
        [node(7, "inner", outputs=["IMAGE"], values=[5.0])],
        [[1, 7, 0, -20, 0]],
        [],
        [slot("image", "IMAGE")],
    )
    shown = {"proxyWidgets": [["6", "by"]]}
    outer["nodes"][0]["properties"] = shown
    nodes = [
        node(6, "outer", outputs=["IMAGE"]),
        node(1, "Save", [slot("images", "IMAGE", 1)]),
    ]
    data = ui(nodes, [[1, 6, 0, 1, 0, "IMAGE"]], inner, outer) | {"last_node_id": 7}
    graph = import_ui(data, CATALOGUE)
    assert set(graph) == {"1", "6:7:8", "6:7:9"}
    assert inputs(graph, "6:7:9") == {"image": ["6:7:8", 0], "by": 5.0}
    assert inputs(graph, "1")["images"] == ["6:7:9", 0]


@pytest.mark.parametrize("mode", [2, 4])
def test_nodes_of_a_nested_instance_that_is_off_are_sent_as_the_editor_sends_them(
    mode: int,
) -> None:
    inner = subgraph(
        "inner",
        [node(11, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0])],
        [[1, -10, 0, 11, 0], [2, 11, 0, -20, 0]],
        [slot("image", "IMAGE")],
        [slot("image", "IMAGE")],
    )
    outer = subgraph(
        "outer",
        [node(21, "inner", [slot("image", "IMAGE", 1)], ["IMAGE"], mode=mode)],
        [[1, -10, 0, 21, 0], [2, 21, 0, -20, 0]],
        [slot("image", "IMAGE")],
        [slot("image", "IMAGE")],
    )
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "outer", [slot("image", "IMAGE", 1)], ["IMAGE"]),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    graph = import_ui(ui(nodes, links, inner, outer), CATALOGUE)
    assert inputs(graph, "2:21:11") == {"image": ["1", 0], "by": 2.0}
    assert inputs(graph, "3").get("images") == (["1", 0] if mode == 4 else None)


def test_an_input_of_a_subgraph_sets_every_node_that_it_is_linked_to() -> None:
    inner = subgraph(
        "sub",
        [
            node(11, "Latent", [slot("width", "INT", 1, widget=True)], ["LATENT"], [64, 2]),
            node(12, "Any", [slot("first", "*", 2)], ["*"]),
        ],
        [[1, -10, 0, 11, 0], [2, -10, 0, 12, 0]],
        [slot("size", "INT") | {"linkIds": [1, 2]}],
        [],
    )
    graph = import_ui(ui([node(7, "sub", values=[])], [], inner), CATALOGUE)
    assert inputs(graph, "7:11") == {"width": 64, "height": 2}
    assert inputs(graph, "7:12") == {"first": 64}
    graph = import_ui(ui([node(7, "sub", values=[[1, 2]])], [], inner), CATALOGUE)
    assert inputs(graph, "7:12") == {"first": {"__value__": [1, 2]}}


def test_a_text_that_an_instance_holds_is_sent_as_it_is() -> None:
    graph = import_ui(wrapped(["{a|b} // kept", 99]), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "{a|b} // kept"


def showing(shown: list[list[str]], values: list[Any], *second: list[Any]) -> Json:
    """Instances of a subgraph with primitives, a nested subgraph and a linked widget."""
    deep = subgraph(
        "deep",
        [node(11, "Latent", [slot("width", "INT", 1, widget=True)], ["LATENT"], [8, 9])],
        [[1, -10, 0, 11, 0]],
        [slot("w", "INT")],
        [],
    )
    middle = subgraph(
        "sub",
        [
            node(21, "PrimitiveNode", outputs=["INT"], values=[5]),
            node(
                22,
                "Latent",
                [slot("width", "INT", 1, widget=True), slot("height", "INT", 2, widget=True)],
                ["LATENT"],
                [1, 2],
            ),
            node(23, "deep", [slot("w", "INT", widget=True)], values=[]),
            node(24, "Text", outputs=["STRING"], values=["linked"]),
            node(25, "Encode", [slot("text", "STRING", 3, widget=True)], values=["own"]),
            node(26, "PrimitiveNode", outputs=["INT"], values=[6]),
        ],
        [[1, 21, 0, 22, 0], [2, 21, 0, 22, 1], [3, 24, 0, 25, 0]],
        [],
        [],
    )
    nodes = [
        node(number, "sub", values=each, properties={"proxyWidgets": shown})
        for number, each in enumerate((values, *second), start=1)
    ]
    return ui(nodes, [], deep, middle)


def test_a_shown_widget_takes_the_place_of_its_link() -> None:
    graph = import_ui(showing([["25", "text"], ["25", "text"]], ["a", "b"], []), CATALOGUE)
    assert inputs(graph, "1:25") == {"text": "b"}
    assert inputs(graph, "2:25") == {"text": "own"}


@pytest.mark.parametrize("name", ["w", "width", "11: width", "23: 11: width"])
def test_a_widget_of_a_nested_instance_is_shown_by_either_name(name: str) -> None:
    graph = import_ui(showing([["23", name]], [70]), CATALOGUE)
    assert inputs(graph, "1:23:11") == {"width": 70, "height": 9}


def test_a_widget_is_also_found_by_the_node_that_it_comes_from() -> None:
    graph = import_ui(showing([["23", "width", "11"]], [70]), CATALOGUE)
    assert inputs(graph, "1:23:11")["width"] == 70
    graph = import_ui(showing([["23", "width", "12"]], [70]), CATALOGUE)
    assert inputs(graph, "1:23:11")["width"] == 8


def test_a_shown_primitive_sets_its_widgets_in_each_instance() -> None:
    shown = [["21", "value"], ["21", "value"], ["26", "value"]]
    graph = import_ui(showing(shown, [30, 31], [40]), CATALOGUE)
    assert inputs(graph, "1:22") == {"width": 30, "height": 30}
    assert inputs(graph, "2:22") == {"width": 40, "height": 40}


def test_shown_widgets_that_do_not_exist_are_ignored() -> None:
    shown = [["99", "x"], ["25", "gone"], ["23", "gone"], ["25", "12: gone"]]
    graph = import_ui(showing(shown, [1, 2, 3, 4]), CATALOGUE)
    assert inputs(graph, "1:25") == {"text": ["1:24", 0]}
    assert inputs(graph, "1:23:11") == {"width": 8, "height": 9}


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
    one, two = (
        subgraph(
            name,
            [node(number, other, [slot("w", "INT", 1, widget=True)])],
            [[1, -10, 0, number, 0]],
            [slot("w", "INT")],
            [],
        )
        for name, number, other in (("one", 11, "two"), ("two", 12, "one"))
    )
    instance = node(1, "one", properties={"proxyWidgets": [["11", "w"]]})
    assert refusals(ui([instance], [], one, two)) == [("broken_link", "?")]
    shown = node(1, "one", properties={"proxyWidgets": [["11", "3: w"]]})
    assert refusals(ui([shown], [], one, two)) == [("broken_link", "?")]


def test_a_shown_primitive_sets_no_socket() -> None:
    inner = subgraph(
        "sub",
        [
            node(11, "PrimitiveNode", outputs=["INT"], values=[5]),
            node(12, "Any", [slot("first", "*", 1)], ["*"]),
        ],
        [[1, 11, 0, 12, 0]],
        [],
        [],
    )
    shown = {"proxyWidgets": [["11", "value"]]}
    graph = import_ui(ui([node(7, "sub", values=[9], properties=shown)], [], inner), CATALOGUE)
    assert inputs(graph, "7:12") == {}


def test_a_node_that_cannot_be_converted_may_be_off_inside_a_subgraph() -> None:
    inner = subgraph(
        "sub",
        [
            node(11, "Load", outputs=["IMAGE"], values=["x.png"]),
            node(12, "Sample", [slot("seed", "INT", 1, widget=True)], ["LATENT"], [7, 30], mode=4),
            node(13, "Decode", [slot("samples", "LATENT", 2)], ["IMAGE"]),
        ],
        [[1, -10, 0, 12, 0], [2, 12, 0, 13, 0]],
        [slot("seed", "INT")],
        [],
    )
    graph = import_ui(ui([node(7, "sub", values=[9])], [], inner), CATALOGUE)
    assert inputs(graph, "7:13") == {}


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
