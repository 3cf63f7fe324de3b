"""UI exports become the graph that ComfyUI's editor would export."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.errors import GraphError, UiFormatError
from comfysnap_schema.graph import Graph, parse_graph
from comfysnap_schema.nodes import Catalogue
from comfysnap_schema.ui_format import import_ui, is_ui_format, read_export

Json = dict[str, Any]


def entry(output: list[Any], /, optional: Json | None = None, **required: Any) -> Json:
    return {"input": {"required": required, "optional": optional or {}}, "output": output}


CLASSES: Json = {
    "Loader": entry(["MODEL", "CLIP"], name=[["a.safetensors", "b.safetensors"]]),
    "Encode": entry(
        ["CONDITIONING"],
        text=["STRING", {"multiline": True, "dynamicPrompts": True}],
        clip=["CLIP"],
    ),
    "Sample": entry(
        ["LATENT"],
        {"mask": ["MASK"]},
        model=["MODEL"],
        seed=["INT", {"default": 0}],
        steps=["INT", {"default": 20}],
        positive=["CONDITIONING"],
        latent=["LATENT"],
    ),
    "Latent": entry(["LATENT"], width=["INT", {"default": 512}], height=["INT", {"default": 512}]),
    "Decode": entry(["IMAGE"], samples=["LATENT"]),
    "Load": entry(["IMAGE", "MASK"], image=[["x.png"], {"image_upload": True}]),
    "Scale": entry(["IMAGE"], image=["IMAGE"], by=["FLOAT", {"default": 1.0}]),
    "Swap": entry(["A", "B"], b=["B"], a=["A"]),
    "Any": entry(["*"], first=["*"], second=["*"]),
    "Save": entry([], images=["IMAGE"], prefix=["STRING", {"default": "ComfyUI"}]),
    "Text": entry(["STRING"], value=["STRING", {}]),
    "Old": entry(
        [], count=["INT", {"forceInput": True}], size=["INT"], kind=[["k1", "k2"]], flag=["BOOLEAN"]
    ),
    "Pick": entry(["IMAGE"], names=["COMBO", {"options": ["p", "q"], "multiselect": True}]),
    "Draw": entry([], canvas=["DRAWING"]),
    "Remote": entry([], name=["COMBO", {"remote": {}}], combo_seed=["COMBO", {"options": ["s"]}]),
    "Pack": entry([], size=["INT"]) | {"python_module": "custom_nodes.pack"},
    "ShowText|pysssss": entry([], text=["STRING"]) | {"python_module": "custom_nodes.show"},
    "Resize": entry(
        ["IMAGE"],
        how=[
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {"key": "size", "inputs": {"required": {"w": ["INT"], "h": ["INT"]}}},
                    {"key": "factor", "inputs": {"required": {"by": ["FLOAT"]}}},
                ]
            },
        ],
        crop=["BOOLEAN"],
    ),
}
CATALOGUE = Catalogue.parse(CLASSES)


def slot(name: str, kind: str, link: int | None = None, *, widget: bool = False) -> Json:
    return {"name": name, "type": kind, "link": link} | (
        {"widget": {"name": name}} if widget else {}
    )


def node(
    number: int,
    kind: str,
    inputs: list[Json] | None = None,
    outputs: list[str] | None = None,
    values: Any = None,
    **more: Any,
) -> Json:
    return {
        "id": number,
        "type": kind,
        "inputs": inputs or [],
        "outputs": [{"name": name, "type": name} for name in outputs or []],
        "widgets_values": values,
        **more,
    }


def ui(nodes: list[Json], links: list[list[Any]], *subgraphs: Json) -> Json:
    return {"nodes": nodes, "links": links, "definitions": {"subgraphs": list(subgraphs)}}


def subgraph(
    name: str, nodes: list[Json], links: list[list[Any]], inputs: list[Json], outputs: list[Json]
) -> Json:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": name,
        "name": name,
        "nodes": nodes,
        "links": [dict(zip(keys, link, strict=False)) for link in links],
        "inputs": inputs,
        "outputs": outputs,
    }


def inputs(graph: Graph, name: str) -> Json:
    return dict(graph[name]["inputs"])


def refusals(data: Json) -> list[tuple[str, str]]:
    with pytest.raises(UiFormatError) as caught:
        import_ui(data, CATALOGUE, file="f.json")
    assert caught.value.code == "not_convertible"
    assert caught.value.file == "f.json"
    return [(code, name) for code, name, _ in caught.value.refused]


def pipeline(**changes: Json) -> Json:
    nodes: Json = {
        "load": node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        "encode": node(
            2, "Encode", [slot("clip", "CLIP", 2)], ["CONDITIONING"], ["a fox"], title="Prompt"
        ),
        "latent": node(3, "Latent", outputs=["LATENT"], values=[640, 480]),
        "sample": node(
            4,
            "Sample",
            [
                slot("model", "MODEL", 1),
                slot("positive", "CONDITIONING", 3),
                slot("latent", "LATENT", 4),
            ],
            ["LATENT"],
            [7, "randomize", 30],
        ),
        "decode": node(5, "Decode", [slot("samples", "LATENT", 5)], ["IMAGE"]),
        "save": node(6, "Save", [slot("images", "IMAGE", 6)], values=["out"]),
        **changes,
    }
    links = [
        [1, 1, 0, 4, 0, "MODEL"],
        [2, 1, 1, 2, 0, "CLIP"],
        [3, 2, 0, 4, 1, "CONDITIONING"],
        [4, 3, 0, 4, 2, "LATENT"],
        [5, 4, 0, 5, 0, "LATENT"],
        [6, 5, 0, 6, 0, "IMAGE"],
    ]
    return ui(list(nodes.values()), links)


def test_a_plain_drawing_becomes_its_graph() -> None:
    graph = import_ui(pipeline(), CATALOGUE)
    assert graph == {
        "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}},
        "2": {
            "class_type": "Encode",
            "inputs": {"text": "a fox", "clip": ["1", 1]},
            "_meta": {"title": "Prompt"},
        },
        "3": {"class_type": "Latent", "inputs": {"width": 640, "height": 480}},
        "4": {
            "class_type": "Sample",
            "inputs": {
                "seed": 7, "steps": 30, "model": ["1", 0], "positive": ["2", 0], "latent": ["3", 0],
            },
        },
        "5": {"class_type": "Decode", "inputs": {"samples": ["4", 0]}},
        "6": {"class_type": "Save", "inputs": {"images": ["5", 0], "prefix": "out"}},
    }  # fmt: skip
    assert parse_graph(graph) == graph


def test_ui_exports_are_told_from_api_ones() -> None:
    assert is_ui_format(pipeline())
    assert not is_ui_format({"1": {"class_type": "Save", "inputs": {}}})
    assert not is_ui_format([])


def test_upload_buttons_and_later_widgets_behind_the_known_ones_are_ignored() -> None:
    graph = import_ui(ui([node(1, "Load", values=["me.png", "image"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"image": "me.png"}
    graph = import_ui(ui([node(1, "Latent", values=[1, 2, "new"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"width": 1, "height": 2}


def test_values_by_name_are_read_too() -> None:
    values = {"width": 9, "height": [1], "preview": "x", "gone": None}
    graph = import_ui(ui([node(1, "Latent", values=values)], []), CATALOGUE)
    assert inputs(graph, "1") == {"width": 9, "height": {"__value__": [1]}}
    graph = import_ui(ui([node(1, "Scale", values={"by": 2})], []), CATALOGUE)
    assert inputs(graph, "1") == {"by": 2}
    graph = import_ui(ui([node(1, "Remote", values={"other": 1})], []), CATALOGUE)
    assert inputs(graph, "1") == {"combo_seed": "s"}


def test_missing_values_are_what_the_editor_puts_into_a_new_widget() -> None:
    nodes = [
        node(1, "Latent", values=[100]),
        node(2, "Old"),
        node(3, "Remote"),
        node(4, "Sample", values=[5]),
    ]
    graph = import_ui(ui(nodes, []), CATALOGUE)
    assert inputs(graph, "1") == {"width": 100, "height": 512}
    assert inputs(graph, "2") == {"size": 0, "kind": "k1", "flag": False}
    assert inputs(graph, "3") == {"combo_seed": "s"}
    assert inputs(graph, "4") == {"seed": 5, "steps": 20}


def test_values_of_inputs_that_became_sockets_are_dropped_when_the_count_fits() -> None:
    graph = import_ui(ui([node(1, "Old", values=[3, 8, "k2", True])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 8, "kind": "k2", "flag": True}
    graph = import_ui(ui([node(1, "Old", values=[8, "k2", True])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 8, "kind": "k2", "flag": True}


def test_a_list_that_is_a_value_is_wrapped() -> None:
    graph = import_ui(ui([node(1, "Pick", values=[["p", "q"]])], []), CATALOGUE)
    assert inputs(graph, "1") == {"names": {"__value__": ["p", "q"]}}


def test_dynamic_combos_bring_their_widgets_with_them() -> None:
    nodes = [
        node(1, "Resize", values=["size", 10, 20, True]),
        node(2, "Resize", values=["factor", 0.5, False]),
    ]
    graph = import_ui(ui(nodes, []), CATALOGUE)
    assert inputs(graph, "1") == {"how": "size", "how.w": 10, "how.h": 20, "crop": True}
    assert inputs(graph, "2") == {"how": "factor", "how.by": 0.5, "crop": False}


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("plain", "plain"),
        ("a {single} choice", "a single choice"),
        (r"kept \{a|b\}", "kept {a|b}"),
        ("a } b", "a } b"),
        ("a | b", "a | b"),
        ("a // comment\nb /* more */c", "a \nb c"),
        ("end\\", "end\\"),
    ],
)
def test_prompts_are_sent_as_the_editor_sends_them(text: str, sent: str) -> None:
    graph = import_ui(ui([node(1, "Encode", values=[text])], []), CATALOGUE)
    assert inputs(graph, "1")["text"] == sent


def test_a_prompt_of_which_the_editor_draws_a_part_is_refused() -> None:
    assert refusals(ui([node(1, "Encode", values=["a {red|blue} fox"])], [])) == [
        ("dynamic_prompt", "1")
    ]


def test_a_widget_that_is_linked_takes_the_link() -> None:
    nodes = [
        node(1, "Text", outputs=["STRING"], values=["linked"]),
        node(2, "Encode", [slot("text", "STRING", 1, widget=True)], values=["own"]),
    ]
    graph = import_ui(ui(nodes, [[1, 1, 0, 2, 0, "STRING"]]), CATALOGUE)
    assert inputs(graph, "2") == {"text": ["1", 0]}


def test_primitives_give_their_value_through_reroutes() -> None:
    nodes = [
        node(1, "PrimitiveNode", outputs=["INT"], values=[42, "fixed"]),
        node(2, "Reroute", [slot("", "*", 1)], ["*"]),
        node(
            3,
            "Latent",
            [slot("width", "INT", 2, widget=True), slot("height", "INT", 3, widget=True)],
            values=[1, 2],
        ),
        node(4, "PrimitiveNode", outputs=["COMBO"], values=[["p"]]),
        node(5, "Pick", [slot("names", "COMBO", 4, widget=True)], values=["q"]),
    ]
    links = [
        [1, 1, 0, 2, 0, "INT"],
        [2, 2, 0, 3, 0, "INT"],
        [3, 1, 0, 3, 1, "INT"],
        [4, 4, 0, 5, 0, "COMBO"],
    ]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "3") == {"width": 42, "height": 42}
    assert inputs(graph, "5") == {"names": {"__value__": ["p"]}}
    assert set(graph) == {"3", "5"}


def test_reroutes_and_notes_leave_no_node() -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "Reroute", [slot("", "*", 1)], ["*"]),
        node(3, "Reroute", [slot("", "*", 2)], ["*"]),
        node(4, "Save", [slot("images", "IMAGE", 3)]),
        node(5, "Note", values=["read me"]),
        node(6, "MarkdownNote", values=["# read me"]),
        node(7, "Reroute", [slot("", "*")], ["*"]),
        node(8, "Save", [slot("images", "IMAGE", 4)]),
        node(9, "Reroute", outputs=["*"]),
        node(10, "Save", [slot("images", "IMAGE", 5)]),
    ]
    links = [
        [1, 1, 0, 2, 0, "*"],
        [2, 2, 0, 3, 0, "*"],
        [3, 3, 0, 4, 0, "*"],
        [4, 7, 0, 8, 0, "*"],
        [5, 9, 0, 10, 0, "*"],
    ]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert set(graph) == {"1", "4", "8", "10"}
    assert inputs(graph, "4")["images"] == ["1", 0]
    assert "images" not in inputs(graph, "8")
    assert "images" not in inputs(graph, "10")


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


def test_a_get_node_without_its_set_node_is_refused() -> None:
    nodes = [
        node(1, "GetNode", outputs=["IMAGE"], values=["pic"]),
        node(2, "Save", [slot("images", "IMAGE", 1)]),
    ]
    assert refusals(ui(nodes, [[1, 1, 0, 2, 0, "IMAGE"]])) == [("broken_link", "2")]


def test_a_muted_node_is_left_out_with_the_links_to_it() -> None:
    data = pipeline(latent=node(3, "Latent", outputs=["LATENT"], values=[1, 2], mode=2))
    graph = import_ui(data, CATALOGUE)
    assert "3" not in graph
    assert "latent" not in inputs(graph, "4")
    assert "positive" in inputs(graph, "4")


def scaled(kind: str, sockets: list[Json], made: list[str], *, slot_out: int = 0) -> Json:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(2, kind, sockets, made, mode=4),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
    ]
    return ui(nodes, [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, slot_out, 3, 0, "IMAGE"]])


def test_a_bypassed_node_hands_on_the_input_of_the_same_place_and_type() -> None:
    graph = import_ui(scaled("Scale", [slot("image", "IMAGE", 1)], ["IMAGE"]), CATALOGUE)
    assert set(graph) == {"1", "3"}
    assert inputs(graph, "3")["images"] == ["1", 0]


def test_a_bypassed_node_of_an_unknown_class_is_passed_through() -> None:
    sockets = [slot("first", "MODEL"), slot("picture", "IMAGE", 1)]
    graph = import_ui(scaled("NotThere", sockets, ["IMAGE"]), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["1", 0]


def test_a_bypassed_node_prefers_the_exact_type_then_one_that_connects() -> None:
    sockets = [slot("a", "MODEL"), slot("b", "IMAGE,MASK"), slot("c", "IMAGE", 1)]
    graph = import_ui(scaled("NotThere", sockets, ["IMAGE"]), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["1", 0]
    sockets = [slot("any", "*", 1)]
    graph = import_ui(scaled("NotThere", sockets, ["IMAGE"]), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["1", 0]
    sockets = [slot("a", "MODEL"), slot("b", "IMAGE,MASK", 1)]
    graph = import_ui(scaled("NotThere", sockets, ["IMAGE"]), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["1", 0]


def test_a_bypassed_node_without_a_fitting_input_leaves_the_link_out() -> None:
    graph = import_ui(scaled("Decode", [slot("samples", "LATENT", 1)], ["IMAGE"]), CATALOGUE)
    assert "images" not in inputs(graph, "3")
    graph = import_ui(scaled("NotThere", [], [], slot_out=3), CATALOGUE)
    assert "images" not in inputs(graph, "3")


@pytest.mark.parametrize(("from_slot", "link_of"), [(0, "first"), (1, "second"), (5, "first")])
def test_a_bypassed_node_read_as_any_type_goes_by_place(from_slot: int, link_of: str) -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(2, "Any", [slot("first", "*", 1), slot("second", "*", 2)], ["*"], mode=4),
        node(3, "Any", [slot("first", "*", 3)], ["*"]),
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 1, 1, 2, 1, "*"], [3, 2, from_slot, 3, 0, "*"]]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "3")["first"] == ["1", 0 if link_of == "first" else 1]


def test_sockets_that_the_file_left_out_still_count_for_bypassing() -> None:
    nodes = [
        node(1, "NotMade", outputs=["B", "A"], mode=2),
        node(2, "Swap", [slot("a", "A", 1)], ["A", "B"], mode=4),
        node(3, "Swap", [slot("a", "A", 2)], ["A", "B"]),
    ]
    graph = import_ui(ui(nodes, [[1, 1, 1, 2, 1, "A"], [2, 2, 0, 3, 1, "A"]]), CATALOGUE)
    assert inputs(graph, "3") == {}


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


def test_subgraphs_are_flattened_with_ids_of_both() -> None:
    graph = import_ui(wrapped([]), CATALOGUE)
    assert set(graph) == {"1", "2:10", "2:11", "3", "4"}
    assert inputs(graph, "2:10") == {"text": "inner text", "clip": ["1", 1]}
    assert inputs(graph, "2:11") == {"width": 1, "height": 2}
    assert inputs(graph, "3")["positive"] == ["2:10", 0]
    assert inputs(graph, "3")["latent"] == ["2:11", 0]


@pytest.mark.parametrize("values", [["outer text", 99], {"text": "outer text", "size": 99}])
def test_an_instance_keeps_the_values_of_the_widgets_it_shows(values: Any) -> None:
    graph = import_ui(wrapped(values), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "outer text"
    assert inputs(graph, "2:11") == {"width": 99, "height": 2}


@pytest.mark.parametrize(("link", "text"), [(4, ["4", 0]), (5, "primitive")])
def test_a_link_into_an_instance_reaches_the_node_inside(link: int, text: Any) -> None:
    graph = import_ui(wrapped(["outer text", 99], link), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == text


def test_proxy_widgets_keep_their_values_in_the_inner_nodes_or_in_the_instance() -> None:
    shown = [["-1", "text"], ["11", "height"], ["11", "$$preview"], ["broken"]]
    graph = import_ui(wrapped([], proxyWidgets=shown), CATALOGUE)
    assert inputs(graph, "2:11") == {"width": 1, "height": 2}
    graph = import_ui(wrapped(["shown", 77, None], proxyWidgets=shown), CATALOGUE)
    assert inputs(graph, "2:10")["text"] == "shown"
    assert inputs(graph, "2:11") == {"width": 1, "height": 77}


def test_values_of_an_instance_that_fit_no_list_of_widgets_are_refused() -> None:
    assert refusals(wrapped([1, 2, 3])) == [("widget_values", "2:10"), ("widget_values", "2:11")]


@pytest.mark.parametrize("mode", [2, 4])
def test_an_instance_that_is_off_brings_no_nodes(mode: int) -> None:
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


def test_a_subgraph_may_hand_its_input_straight_on_or_leave_an_output_open() -> None:
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


def test_unknown_classes_are_refused_by_name_all_at_once() -> None:
    data = ui([node(1, "Nope"), node(2, "Other"), node(3, "Latent")], [])
    assert refusals(data) == [("unknown_node", "1"), ("unknown_node", "2")]


def test_an_input_that_only_a_widget_of_the_editor_can_give_is_refused() -> None:
    assert refusals(ui([node(1, "Draw", values=["..."])], [])) == [("custom_widget", "1")]
    drawn = [slot("canvas", "DRAWING", widget=True)]
    assert refusals(ui([node(1, "Draw", drawn)], [])) == [("custom_widget", "1")]


def test_an_input_that_is_a_socket_and_not_linked_is_left_to_validation() -> None:
    graph = import_ui(ui([node(1, "Draw", [slot("canvas", "DRAWING")])], []), CATALOGUE)
    assert inputs(graph, "1") == {}


def test_more_values_than_a_pack_declares_are_widgets_of_its_own() -> None:
    assert refusals(ui([node(1, "Pack", values=[1, {"lora": "x"}])], [])) == [
        ("custom_widget", "1")
    ]
    graph = import_ui(ui([node(1, "Pack", values=[1, None])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 1}
    graph = import_ui(ui([node(1, "ShowText|pysssss", values=["a", "b"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"text": "a"}


def test_a_value_where_the_seed_has_its_control_is_refused() -> None:
    assert refusals(ui([node(1, "Sample", values=[7, 30])], [])) == [("widget_values", "1")]


@pytest.mark.parametrize(
    "links",
    [
        [[1, 9, 0, 2, 0, "IMAGE"]],
        [[1, -10, 0, 2, 0, "IMAGE"]],
        [[1, 3, 0, 2, 0, "IMAGE"], [2, 4, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]],
    ],
)
def test_lines_that_lead_nowhere_or_in_a_circle_are_refused(links: list[list[Any]]) -> None:
    nodes = [
        node(2, "Save", [slot("images", "IMAGE", 1)]),
        node(3, "Reroute", [slot("", "*", 2)], ["*"]),
        node(4, "Reroute", [slot("", "*", 3)], ["*"]),
    ]
    assert refusals(ui(nodes, links)) == [("broken_link", "2")]


def test_a_line_that_is_not_in_the_file_counts_as_not_linked() -> None:
    graph = import_ui(ui([node(2, "Save", [slot("images", "IMAGE", 1)])], []), CATALOGUE)
    assert "images" not in inputs(graph, "2")


def test_a_line_from_an_input_that_the_subgraph_lacks_is_refused() -> None:
    inner = subgraph(
        "sub", [node(1, "Save", [slot("images", "IMAGE", 1)])], [[1, -10, 4, 1, 0]], [], []
    )
    assert refusals(ui([node(7, "sub")], [], inner)) == [("broken_link", "7:1")]


def test_subgraphs_that_hold_each_other_are_refused() -> None:
    one = subgraph("one", [node(1, "two")], [], [], [])
    two = subgraph("two", [node(1, "one")], [], [], [])
    assert refusals(ui([node(1, "one")], [], one, two)) == [("broken_link", "?")]


def test_subgraphs_that_multiply_without_end_are_refused() -> None:
    levels = [
        subgraph(f"s{level}", [node(n, f"s{level + 1}") for n in range(10)], [], [], [])
        for level in range(12)
    ]
    last = subgraph("s12", [node(1, "Latent")], [], [], [])
    assert refusals(ui([node(1, "s0")], [], *levels, last)) == [("too_large", "?")]


def test_lines_through_very_many_nodes_are_refused() -> None:
    far = 3000
    nodes = [node(n, "Reroute", [slot("", "*", n)], ["*"]) for n in range(1, far)]
    nodes += [node(0, "Load", outputs=["IMAGE"]), node(far, "Save", [slot("images", "I", far)])]
    links = [[n, n - 1, 0, n, 0, "*"] for n in range(1, far + 1)]
    assert refusals(ui(nodes, links)) == [("too_large", str(far))]


def test_an_inner_slot_that_is_not_there_makes_no_widget() -> None:
    inner = subgraph(
        "sub",
        [node(1, "Latent", [slot("width", "INT", 1, widget=True)], values=[5, 6])],
        [[1, -10, 0, 1, 0], [2, -10, 1, 1, 9], [3, -10, 1, 99, 0]],
        [slot("w", "INT"), slot("ghost", "INT")],
        [],
    )
    graph = import_ui(ui([node(7, "sub", values=[50])], [], inner), CATALOGUE)
    assert inputs(graph, "7:1") == {"width": 50, "height": 6}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"1": {"class_type": "Save", "inputs": {}}}, "not_a_graph"),
        ({"nodes": [], "links": []}, "empty_graph"),
        ({"nodes": [{"id": 1}], "links": []}, "not_a_graph"),
        ({"nodes": [7], "links": []}, "not_a_graph"),
        ({"nodes": [{"id": 1, "type": "Save", "mode": "x"}], "links": []}, "not_a_graph"),
        ({"nodes": [{"id": 1, "type": "Save"}], "links": [[1]]}, "not_a_graph"),
        ({"nodes": [{"id": 1, "type": "S"}], "links": [[1, 1, 1e400, 1, 0]]}, "not_a_graph"),
        ({"nodes": [{"id": n, "type": "N"} for n in range(20_001)], "links": []}, "too_large"),
    ],
)
def test_what_is_no_ui_export_is_refused(data: Any, code: str) -> None:
    with pytest.raises(GraphError) as caught:
        import_ui(data, CATALOGUE, file="f.json")
    assert (caught.value.code, caught.value.file) == (code, "f.json")


def test_odd_slots_and_links_are_read() -> None:
    data = ui([node(1, "Latent", [{"name": "x", "type": ["a", "b"]}, {"name": "y"}])], [])
    data["links"] = [None]
    assert inputs(import_ui(data, CATALOGUE), "1") == {"width": 512, "height": 512}


def test_a_file_of_either_format_is_read(tmp_path: Path) -> None:
    drawn, exported = tmp_path / "ui.json", tmp_path / "api.json"
    graph = import_ui(pipeline(), CATALOGUE)
    drawn.write_text(json.dumps(pipeline()))
    exported.write_text(json.dumps(graph))
    assert read_export(drawn, CATALOGUE) == graph
    assert read_export(exported, None) == graph


def test_a_ui_export_without_a_catalogue_says_what_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "ui.json"
    file.write_text(json.dumps(pipeline()))
    with pytest.raises(GraphError) as caught:
        read_export(file, None)
    assert (caught.value.code, caught.value.file) == ("ui_format", str(file))
