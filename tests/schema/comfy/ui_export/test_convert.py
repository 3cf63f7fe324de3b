"""UI exports become the graph that ComfyUI's editor would export."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.graph import parse_graph
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format, read_export
from comfysnap_schema.wire.errors import GraphError, UiFormatError
from tests.schema.comfy.ui_export.drawing import (
    CATALOGUE,
    Json,
    inputs,
    node,
    pipeline,
    refusals,
    slot,
    ui,
)


def scaled(kind: str, sockets: list[Json], made: list[str], *, slot_out: int = 0) -> Json:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(2, kind, sockets, made, mode=4),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
    ]
    return ui(nodes, [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, slot_out, 3, 0, "IMAGE"]])


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


def test_ui_exports_are_distinguished_from_api_ones() -> None:
    assert is_ui_format(pipeline())
    assert not is_ui_format({"1": {"class_type": "Save", "inputs": {}}})
    assert not is_ui_format([])


def test_primitives_set_the_widgets_that_they_are_linked_to_without_a_reroute() -> None:
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
        node(6, "PrimitiveNode", outputs=["INT"], values=[42, "fixed"]),
    ]
    links = [
        [1, 1, 0, 2, 0, "INT"],
        [2, 2, 0, 3, 0, "INT"],
        [3, 6, 0, 3, 1, "INT"],
        [4, 4, 0, 5, 0, "COMBO"],
    ]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "3") == {"width": 1, "height": 42}
    assert inputs(graph, "5") == {"names": {"__value__": ["p"]}}
    assert set(graph) == {"3", "5"}


def test_the_value_of_a_primitive_is_sent_as_its_widget_sends_it() -> None:
    nodes = [
        node(1, "PrimitiveNode", outputs=["STRING"], values=["a // note"]),
        node(2, "Encode", [slot("text", "STRING", 1, widget=True)], values=["own"]),
        node(3, "PrimitiveNode", outputs=["STRING"]),
        node(4, "Encode", [slot("text", "STRING", 2, widget=True)], values=["own"]),
        node(5, "PrimitiveNode", outputs=["CLIP"], values=["x"]),
        node(6, "Encode", [slot("clip", "CLIP", 3)], values=["own"]),
    ]
    links = [[1, 1, 0, 2, 0, "STRING"], [2, 3, 0, 4, 0, "STRING"], [3, 5, 0, 6, 0, "CLIP"]]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "2") == {"text": "a "}
    assert inputs(graph, "4") == {"text": "own"}
    assert inputs(graph, "6") == {"text": "own"}


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


def test_a_get_node_without_its_set_node_is_rejected() -> None:
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


def test_a_bypassed_node_passes_on_the_input_of_the_same_position_and_type() -> None:
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


def test_a_bypassed_node_without_a_matching_input_removes_the_link() -> None:
    graph = import_ui(scaled("Decode", [slot("samples", "LATENT", 1)], ["IMAGE"]), CATALOGUE)
    assert "images" not in inputs(graph, "3")
    graph = import_ui(scaled("NotThere", [], [], slot_out=3), CATALOGUE)
    assert "images" not in inputs(graph, "3")


@pytest.mark.parametrize(("from_slot", "link_of"), [(0, "first"), (1, "second"), (5, "first")])
def test_a_bypassed_node_read_as_any_type_goes_by_position(from_slot: int, link_of: str) -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(2, "Any", [slot("first", "*", 1), slot("second", "*", 2)], ["*"], mode=4),
        node(3, "Any", [slot("first", "*", 3)], ["*"]),
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 1, 1, 2, 1, "*"], [3, 2, from_slot, 3, 0, "*"]]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "3")["first"] == ["1", 0 if link_of == "first" else 1]


def test_unknown_classes_are_reported_together_by_name() -> None:
    data = ui([node(1, "Nope"), node(2, "Other"), node(3, "Latent")], [])
    assert refusals(data) == [("unknown_node", "1"), ("unknown_node", "2")]


def messages(data: Json) -> list[str]:
    with pytest.raises(UiFormatError) as caught:
        import_ui(data, CATALOGUE)
    return [message for _, _, message in caught.value.refused]


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"cnr_id": "comfyui-kjnodes", "ver": "1.0.5"}, "the node pack comfyui-kjnodes 1.0.5:"),
        (
            {"cnr_id": "kj", "aux_id": "kijai/KJNodes", "ver": "abc"},
            "the node pack kj abc (github.com/kijai/KJNodes):",
        ),
        ({"aux_id": "kijai/KJNodes"}, "the node pack github.com/kijai/KJNodes:"),
        ({"cnr_id": "comfy-core", "ver": "0.30.1"}, "the object_info of ComfyUI 0.30.1 or later"),
        ({"cnr_id": "comfy-core"}, "the object_info of ComfyUI at its newest or later"),
        ({"cnr_id": 3, "aux_id": "no repo"}, "pass one of a ComfyUI that has it"),
    ],
)
def test_an_unknown_class_says_where_it_comes_from(properties: Json, named: str) -> None:
    (message,) = messages(ui([node(1, "Nope", properties=properties)], []))
    assert "'Nope'" in message
    assert named in message


@pytest.mark.parametrize("name", ["workflow>My group", "workflow/My group"])
def test_a_group_node_is_refused_by_name(name: str) -> None:
    data = ui([node(1, name, outputs=["IMAGE"]), node(2, "Save", [slot("images", "IMAGE", 1)])],
              [[1, 1, 0, 2, 0, "IMAGE"]])  # fmt: skip
    data |= {"extra": {"groupNodes": {"My group": {"nodes": [], "links": []}}}}
    assert refusals(data) == [("group_node", "1")]
    (message,) = messages(data)
    assert "'My group'" in message
    assert "Export (API)" in message


def test_unknown_classes_of_one_pack_are_one_finding_with_its_newest_version() -> None:
    own, pack = {"cnr_id": "comfy-core", "ver": "0.5.1"}, {"cnr_id": "kj", "ver": "1.0.5"}
    nodes = [
        node(1, "New", properties=own),
        node(2, "Sharp", properties=pack),
        node(3, "Newer", properties=own | {"ver": "0.22.0"}),
        node(4, "Newer", properties=own | {"ver": "0.7.0"}),
        node(5, "Lost"),
    ]
    with pytest.raises(UiFormatError) as caught:
        import_ui(ui(nodes, []), CATALOGUE)
    first, *lines = caught.value.message.splitlines()
    assert first == "only ComfyUI itself can export this workflow:"
    assert lines == [
        "  unknown node classes 'New', 'Newer', of ComfyUI 0.22.0 itself: the node catalogue is of"
        " another version; pass the object_info of ComfyUI 0.22.0 or later (node 1, 3, 4)",
        "  unknown node class 'Sharp', of the node pack kj 1.0.5: pass the object_info of a ComfyUI"
        " that has this pack (node 2)",
        "  unknown node class 'Lost': not in the node catalogue; pass one of a ComfyUI that has it"
        " (node 5)",
    ]


def test_everything_that_cannot_be_converted_is_reported_at_once() -> None:
    nodes = [
        node(1, "Nope", [slot("images", "IMAGE", 1)], ["IMAGE"]),
        node(2, "Pack", values=[3, "more"]),
        node(3, "Encode", [slot("clip", "CLIP", 2)], values=["{a|b}"]),
        node(4, "workflow>Old", mode=0),
        node(5, "Sample", [slot("model", "MODEL", 3), slot("latent", "LATENT", 4)],
             values=[1, "odd"]),
    ]  # fmt: skip
    links = [[n, 90 + n, 0, target, 0, "*"] for n, target in ((1, 1), (2, 3), (3, 5), (4, 5))]
    assert refusals(ui(nodes, links)) == [
        ("unknown_node", "1"),
        ("broken_link", "1"),
        ("custom_widget", "2"),
        ("broken_link", "3"),
        ("dynamic_prompt", "3"),
        ("group_node", "4"),
        ("widget_values", "5"),
        ("broken_link", "5"),
        ("broken_link", "5"),
    ]


def test_a_link_into_an_optional_socket_is_kept() -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png", "image"]),
        node(2, "Sample", [slot("model", "MODEL"), slot("mask", "MASK", 1)],
             values=[1, "fixed", 2]),
    ]  # fmt: skip
    graph = import_ui(ui(nodes, [[1, 1, 1, 2, 1, "MASK"]]), CATALOGUE)
    assert inputs(graph, "2")["mask"] == ["1", 1]


def test_what_follows_a_muted_chain_runs_without_its_input() -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png", "image"], mode=2),
        node(2, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0], mode=2),
        node(3, "Save", [slot("images", "IMAGE", 2)], values=["out"]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    assert import_ui(ui(nodes, links), CATALOGUE) == {
        "3": {"class_type": "Save", "inputs": {"prefix": "out"}}
    }


def test_controls_that_mute_other_nodes_leave_no_node() -> None:
    nodes = [
        node(1, "Latent", outputs=["LATENT"], values=[64, 64]),
        node(2, "Fast Muter (rgthree)", [slot("Latent", "*", 1)], ["*"]),
        node(3, "Mute / Bypass Repeater (rgthree)", [slot("", "*", 2)], ["*"]),
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"]]
    assert list(import_ui(ui(nodes, links), CATALOGUE)) == ["1"]


@pytest.mark.parametrize(
    "links",
    [
        [[1, 9, 0, 2, 0, "IMAGE"]],
        [[1, -10, 0, 2, 0, "IMAGE"]],
        [[1, 3, 0, 2, 0, "IMAGE"], [2, 4, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]],
    ],
)
def test_dangling_and_circular_links_are_rejected(links: list[list[Any]]) -> None:
    nodes = [
        node(2, "Save", [slot("images", "IMAGE", 1)]),
        node(3, "Reroute", [slot("", "*", 2)], ["*"]),
        node(4, "Reroute", [slot("", "*", 3)], ["*"]),
    ]
    assert refusals(ui(nodes, links)) == [("broken_link", "2")]


def test_a_link_from_an_input_of_the_top_level_graph_is_rejected() -> None:
    data = ui([node(2, "Save", [slot("images", "IMAGE", 1)])], [[1, -10, 0, 2, 0, "IMAGE"]])
    assert refusals(data | {"inputs": [slot("images", "IMAGE")]}) == [("broken_link", "2")]


def test_a_link_that_is_not_in_the_file_counts_as_not_linked() -> None:
    graph = import_ui(ui([node(2, "Save", [slot("images", "IMAGE", 1)])], []), CATALOGUE)
    assert "images" not in inputs(graph, "2")


def test_links_through_too_many_nodes_are_rejected() -> None:
    far = 3000
    nodes = [node(n, "Reroute", [slot("", "*", n)], ["*"]) for n in range(1, far)]
    nodes += [node(0, "Load", outputs=["IMAGE"]), node(far, "Save", [slot("images", "I", far)])]
    links = [[n, n - 1, 0, n, 0, "*"] for n in range(1, far + 1)]
    assert refusals(ui(nodes, links)) == [("too_large", str(far))]


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
def test_invalid_ui_exports_are_rejected(data: Any, code: str) -> None:
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


def test_a_ui_export_without_a_catalogue_suggests_object_info(tmp_path: Path) -> None:
    file = tmp_path / "ui.json"
    file.write_text(json.dumps(pipeline()))
    with pytest.raises(GraphError) as caught:
        read_export(file, None)
    assert (caught.value.code, caught.value.file) == ("ui_format", str(file))


@pytest.mark.parametrize("mode", [0, 2, 4])
def test_a_disabled_primitive_still_sets_its_value(mode: int) -> None:
    nodes = [
        node(1, "PrimitiveNode", outputs=["INT"], values=[42], mode=mode),
        node(2, "Latent", [slot("width", "INT", 1, widget=True)], values=[1, 2]),
    ]
    graph = import_ui(ui(nodes, [[1, 1, 0, 2, 0, "INT"]]), CATALOGUE)
    assert inputs(graph, "2") == {"width": 42, "height": 2}


@pytest.mark.parametrize(("mode", "passed"), [(2, None), (4, ["1", 0])])
def test_a_bypassed_reroute_passes_its_input_on_and_a_muted_one_does_not(
    mode: int, passed: Any
) -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "Reroute", [slot("", "*", 1)], ["*"], mode=mode),
        node(3, "Save", [slot("images", "IMAGE", 2)]),
    ]
    graph = import_ui(ui(nodes, [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"]]), CATALOGUE)
    assert inputs(graph, "3").get("images") == passed
