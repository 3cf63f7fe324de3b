"""Group nodes, which older editors made, are replaced by the nodes that the file defines."""

from typing import Any

import pytest

from comfysnap_schema.comfy.ui_export.convert import import_ui
from comfysnap_schema.comfy.ui_export.group_nodes import MAX_GROUPED
from comfysnap_schema.comfy.ui_export.knowledge import drawing_of
from comfysnap_schema.comfy.ui_export.model import MAX_NODES
from comfysnap_schema.wire.errors import UiFormatError
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

GROUP = "workflow>Draw"


def inner(
    index: int,
    kind: str,
    slots: list[Json] | None = None,
    outputs: list[str] | None = None,
    values: Any = None,
    **more: Any,
) -> Json:
    """A node in a definition, which has an index and no id."""
    entry = node(0, kind, slots, outputs, values, **more) | {"index": index}
    return {key: value for key, value in entry.items() if key != "id"}


SAMPLER = [slot("model", "MODEL"), slot("positive", "CONDITIONING"), slot("latent", "LATENT")]
WIDGETS = [slot("seed", "INT", widget=True), slot("steps", "INT", widget=True)]
OLDER: Json = {
    "nodes": [
        inner(0, "Encode", [slot("clip", "CLIP")], ["CONDITIONING"], ["a fox"]),
        inner(1, "Latent", outputs=["LATENT"], values=[512, 512]),
        inner(2, "Sample", SAMPLER, ["LATENT"], [1, "fixed", 20]),
    ],
    "links": [
        [None, 1, 0, 0, 1, "CLIP"],
        [0, 0, 2, 1, 12, "CONDITIONING"],
        [1, 0, 2, 2, 13, "LATENT"],
        [None, 0, 2, 0, 1, "MODEL"],
    ],
    "external": [[2, 0, "LATENT"]],
}
"""As editors wrote it in which a widget was an input only when it was converted."""
NEWER: Json = {
    **OLDER,
    "nodes": [
        OLDER["nodes"][0] | {"inputs": [slot("clip", "CLIP"), slot("text", "STRING", widget=True)]},
        OLDER["nodes"][1]
        | {"inputs": [slot("width", "INT", widget=True), slot("height", "INT", widget=True)]},
        OLDER["nodes"][2] | {"inputs": [*SAMPLER, *WIDGETS]},
    ],
}
"""As later ones did, in which every widget is an input too."""
VALUES = ["a cat", 640, 480, 7, "randomize", 30]


def drawing(
    definition: Json = OLDER,
    values: Any = VALUES,
    kind: str = GROUP,
    slots: list[Json] | None = None,
    **more: Any,
) -> Json:
    """A group node between a loader and a decoder."""
    nodes = [
        node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        node(
            9, kind, slots or [slot("clip", "CLIP", 1), slot("model", "MODEL", 2)], ["LATENT"],
            values, **more,
        ),
        node(3, "Decode", [slot("samples", "LATENT", 3)], ["IMAGE"]),
        node(4, "Save", [slot("images", "IMAGE", 4)], values=["out"]),
    ]  # fmt: skip
    links = [
        [1, 1, 1, 9, 0, "CLIP"],
        [2, 1, 0, 9, 1, "MODEL"],
        [3, 9, 0, 3, 0, "LATENT"],
        [4, 3, 0, 4, 0, "IMAGE"],
    ]
    return defined(ui(nodes, links), definition)


def defined(data: Json, definition: Json, name: str = "Draw") -> Json:
    return data | {"extra": {"groupNodes": {name: definition}}}


@pytest.mark.parametrize("definition", [OLDER, NEWER])
@pytest.mark.parametrize("kind", [GROUP, "workflow/Draw"])
def test_a_group_node_becomes_its_nodes_with_its_values(definition: Json, kind: str) -> None:
    graph = import_ui(drawing(definition, kind=kind), CATALOGUE)
    assert list(graph) == ["1", "3", "4", "9:0", "9:1", "9:2"]
    assert inputs(graph, "9:0") == {"text": "a cat", "clip": ["1", 1]}
    assert inputs(graph, "9:1") == {"width": 640, "height": 480}
    assert inputs(graph, "9:2") == {
        "seed": 7, "steps": 30, "model": ["1", 0], "positive": ["9:0", 0], "latent": ["9:1", 0],
    }  # fmt: skip
    assert inputs(graph, "3") == {"samples": ["9:2", 0]}


def test_without_values_of_its_own_its_nodes_have_those_of_the_definition() -> None:
    graph = import_ui(drawing(values=None), CATALOGUE)
    assert inputs(graph, "9:0")["text"] == "a fox"
    assert inputs(graph, "9:2")["steps"] == 20


def test_values_are_also_read_as_the_classes_are_now() -> None:
    nodes = [*OLDER["nodes"][:2], OLDER["nodes"][2] | {"values": None, "widgets_values": [1]}]
    graph = import_ui(drawing(OLDER | {"nodes": nodes}), CATALOGUE)
    assert inputs(graph, "9:2")["steps"] == 30
    named = [*OLDER["nodes"][:2], OLDER["nodes"][2] | {"widgets_values": {"seed": 3, "steps": 4}}]
    assert inputs(import_ui(drawing(OLDER | {"nodes": named}), CATALOGUE), "9:2")["seed"] == 7


@pytest.mark.parametrize("values", [["a cat"], [*VALUES, 1], {"text": "a cat"}])
def test_values_that_do_not_fit_are_refused(values: Any) -> None:
    assert refusals(drawing(values=values)) == [("group_node", "9")]


def test_values_in_another_order_are_noticed_by_their_controls() -> None:
    assert refusals(drawing(values=[*VALUES[:4], 30, "randomize"])) == [("widget_values", "9:2")]


def test_a_group_node_that_is_muted_or_bypassed_leaves_no_node() -> None:
    assert list(import_ui(drawing(mode=2), CATALOGUE)) == ["1", "3", "4"]
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(9, GROUP, [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0], mode=4),
        node(4, "Save", [slot("images", "IMAGE", 2)], values=["out"]),
    ]
    scale: Json = {"nodes": [inner(0, "Scale", [slot("image", "IMAGE")], ["IMAGE"], [1.0])]}
    data = defined(ui(nodes, [[1, 1, 0, 9, 0, "IMAGE"], [2, 9, 0, 4, 0, "IMAGE"]]), scale)
    graph = import_ui(data, CATALOGUE)
    assert list(graph) == ["1", "4"]
    assert inputs(graph, "4")["images"] == ["1", 0]


def test_modes_of_nodes_inside_count() -> None:
    nodes = [OLDER["nodes"][0] | {"mode": 2}, *OLDER["nodes"][1:]]
    graph = import_ui(drawing(OLDER | {"nodes": nodes}), CATALOGUE)
    assert list(graph) == ["1", "3", "4", "9:1", "9:2"]
    assert "positive" not in inputs(graph, "9:2")


def test_a_link_to_a_widget_of_a_group_node_reaches_the_node_inside() -> None:
    data = drawing(NEWER, slots=[
        slot("clip", "CLIP", 1), slot("model", "MODEL", 2), slot("text", "STRING", 8, widget=True),
        slot("width", "INT", widget=True),
    ])  # fmt: skip
    data["nodes"].append(node(8, "Text", outputs=["STRING"], values=["a dog"]))
    data["links"].append([8, 8, 0, 9, 2, "STRING"])
    assert inputs(import_ui(data, CATALOGUE), "9:0")["text"] == ["8", 0]


def test_a_primitive_outside_sets_a_widget_of_a_group_node() -> None:
    data = drawing(slots=[
        slot("clip", "CLIP", 1), slot("model", "MODEL", 2), slot("text", "STRING", 8, widget=True),
    ])  # fmt: skip
    data["nodes"].append(node(8, "PrimitiveNode", outputs=["STRING"], values=["a dog"]))
    data["links"].append([8, 8, 0, 9, 2, "STRING"])
    assert inputs(import_ui(data, CATALOGUE), "9:0")["text"] == "a dog"
    gone = data["nodes"][1]["inputs"][2]
    gone["name"] = "model"
    data["nodes"][1]["inputs"][1]["name"] = "clip 2"
    graph = import_ui(data, CATALOGUE)
    assert "model" not in inputs(graph, "9:2")


def test_inputs_of_one_name_are_told_apart_by_title_then_number() -> None:
    encode = inner(0, "Encode", [slot("clip", "CLIP")], ["CONDITIONING"], ["x"])
    definition: Json = {
        "nodes": [
            encode,
            encode | {"index": 1, "title": "Style"},
            encode | {"index": 2},
            encode | {"index": 3},
        ],
        "external": [[at, 0, "CONDITIONING"] for at in range(4)],
    }
    names = ["clip", "Style clip", "Encode clip", "Encode 2 clip"]
    nodes = [
        node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        node(9, GROUP, [slot(name, "CLIP", at) for at, name in enumerate(names, start=1)],
             ["CONDITIONING"] * 4, ["0", "1", "2", "3"]),
        node(4, "Sample", [slot("positive", "CONDITIONING", 9)], ["LATENT"], [1, "fixed", 2]),
    ]  # fmt: skip
    links = [[at, 1, 1, 9, at - 1, "CLIP"] for at in range(1, 5)] + [[9, 9, 3, 4, 0, "*"]]
    graph = import_ui(defined(ui(nodes, links), definition), CATALOGUE)
    assert [inputs(graph, f"9:{at}")["text"] for at in range(4)] == ["0", "1", "2", "3"]
    assert inputs(graph, "9:3")["clip"] == ["1", 1]
    assert inputs(graph, "4")["positive"] == ["9:3", 0]


def test_inputs_and_outputs_that_the_author_renamed_or_hid_are_followed() -> None:
    config: Json = {
        "0": {"input": {"clip": {"name": "words"}}, "output": {"0": {"visible": True}}},
        "2": {"input": {"model": {"visible": False}}},
    }
    data = drawing(OLDER | {"config": config}, slots=[slot("words", "CLIP", 1)])
    data["links"] = [link for link in data["links"] if link[0] != 2]
    data["links"][1] = [3, 9, 1, 3, 0, "LATENT"]
    graph = import_ui(data, CATALOGUE)
    assert inputs(graph, "9:0")["clip"] == ["1", 1]
    assert "model" not in inputs(graph, "9:2")
    assert inputs(graph, "3")["samples"] == ["9:2", 0]
    labelled = [OLDER["nodes"][0] | {"inputs": [slot("clip", "CLIP") | {"label": "words"}]}]
    data = drawing(OLDER | {"nodes": [*labelled, *OLDER["nodes"][1:]]},
                   slots=[slot("words", "CLIP", 1), slot("model", "MODEL", 2)])  # fmt: skip
    assert inputs(import_ui(data, CATALOGUE), "9:0")["clip"] == ["1", 1]


def test_a_socket_that_has_another_name_in_the_file_is_found_by_its_place() -> None:
    data = drawing(slots=[slot("clip", "CLIP", 1), slot("the model", "MODEL", 2)])
    assert inputs(import_ui(data, CATALOGUE), "9:2")["model"] == ["1", 0]


@pytest.mark.parametrize(
    ("slots", "links", "named"),
    [
        ([slot("strength", "FLOAT", 8, widget=True)], [[8, 1, 0, 9, 2, "FLOAT"]], "strength"),
        ([], [[8, 9, 4, 3, 0, "LATENT"]], "output 4"),
    ],
)
def test_a_link_that_the_definition_has_no_place_for_is_refused(
    slots: list[Json], links: list[list[Any]], named: str
) -> None:
    data = drawing(slots=[slot("clip", "CLIP", 1), slot("model", "MODEL", 2), *slots])
    data["links"] += links
    with pytest.raises(UiFormatError, match=named):
        import_ui(data, CATALOGUE)


def test_a_primitive_inside_sets_what_it_is_linked_to_inside_and_outside() -> None:
    sampler = inner(1, "Sample", [*SAMPLER, *WIDGETS], ["LATENT"], [1, "fixed", 20])
    definition: Json = {
        "nodes": [inner(0, "PrimitiveNode", outputs=["INT"], title="steps"), sampler],
        "links": [[0, 0, 1, 4, 5, "INT"], [None, 0, 1, 0, 1, "MODEL"]],
        "external": [[0, 0, "INT"], [1, 0, "LATENT"]],
    }
    nodes = [
        node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        node(9, GROUP, [slot("model", "MODEL", 1)], ["INT", "LATENT"], [26, "fixed", 5, "fixed"]),
        node(4, "Sample", [slot("latent", "LATENT", 2), slot("steps", "INT", 3, widget=True)],
             ["LATENT"], [1, "fixed", 20]),
    ]  # fmt: skip
    links = [[1, 1, 0, 9, 0, "MODEL"], [2, 9, 1, 4, 0, "LATENT"], [3, 9, 0, 4, 1, "INT"]]
    graph = import_ui(defined(ui(nodes, links), definition), CATALOGUE)
    assert list(graph) == ["1", "4", "9:1"]
    assert inputs(graph, "9:1") == {"seed": 5, "steps": 26, "model": ["1", 0]}
    assert inputs(graph, "4") == {"seed": 1, "steps": 26, "latent": ["9:1", 0]}


def test_a_primitive_inside_that_sets_nothing_shows_nothing() -> None:
    nodes = [*OLDER["nodes"], inner(3, "PrimitiveNode", outputs=["INT"], title="steps")]
    external = [*OLDER["external"], [3, 0, "INT"]]
    graph = import_ui(drawing(OLDER | {"nodes": nodes, "external": external}), CATALOGUE)
    assert inputs(graph, "9:2")["steps"] == 30


def reroute(index: int) -> Json:
    return inner(index, "Reroute", [slot("", "*")], [""])


def test_reroutes_inside_are_followed_to_their_ends_outside() -> None:
    definition: Json = {
        "nodes": [
            reroute(0),
            inner(1, "Scale", [slot("image", "IMAGE")], ["IMAGE"], [1.0]),
            reroute(2),
            reroute(3),
            inner(4, "Scale", [slot("image", "IMAGE")], ["IMAGE"], [2.0]),
            inner(5, "Note", values=["for me"]),
        ],
        "links": [
            [None, 0, 0, 0, 1, "IMAGE"],
            [0, 0, 1, 0, 5, "IMAGE"],
            [1, 0, 2, 0, 6, "IMAGE"],
            [1, 0, 3, 0, 6, "IMAGE"],
            [3, 0, 4, 0, 7, "IMAGE"],
        ],
        "external": [[{"index": 2}, 0, "IMAGE"], [4, 0, "IMAGE"]],
    }
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(9, GROUP, [slot("IMAGE", "IMAGE", 1)], ["IMAGE", "IMAGE"], [1.5, 2.5]),
        node(4, "Save", [slot("images", "IMAGE", 2)], values=["out"]),
        node(5, "Save", [slot("images", "IMAGE", 3)], values=["out"]),
    ]
    links = [[1, 1, 0, 9, 0, "IMAGE"], [2, 9, 0, 4, 0, "IMAGE"], [3, 9, 1, 5, 0, "IMAGE"]]
    graph = import_ui(defined(ui(nodes, links), definition), CATALOGUE)
    assert inputs(graph, "9:1") == {"by": 1.5, "image": ["1", 0]}
    assert inputs(graph, "4")["images"] == ["9:1", 0]
    assert inputs(graph, "9:4") == {"by": 2.5, "image": ["9:1", 0]}
    assert inputs(graph, "5")["images"] == ["9:4", 0]


@pytest.mark.parametrize(
    ("links", "external", "name"),
    [
        ([[None, 0, 0, 0, 1, "IMAGE"]], [], "IMAGE"),
        ([], [[0, 0, "IMAGE"]], "IMAGE"),
        ([], [[0, 0]], "*"),
        ([[0, 0, 1, 0, 1, "*"]], [[0, 0, "IMAGE"]], "IMAGE"),
    ],
)
def test_a_reroute_alone_has_the_type_of_its_links(
    links: list[Any], external: list[Any], name: str
) -> None:
    bare = {key: value for key, value in reroute(0).items() if key != "inputs"}
    taker = inner(1, "Any", [slot("first", "*")], ["*"])
    definition: Json = {"nodes": [bare, taker], "links": links, "external": external}
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(9, GROUP, [slot(name, "IMAGE", 1)], ["IMAGE"]),
        node(4, "Save", [slot("images", "IMAGE", 2)], values=["out"]),
    ]
    data = ui(nodes, [[1, 1, 0, 9, 0, "IMAGE"], [2, 9, 0, 4, 0, "IMAGE"]])
    graph = import_ui(defined(data, definition), CATALOGUE)
    assert inputs(graph, "4")["images"] == ["1", 0]


def test_upload_buttons_that_an_editor_took_for_inputs_have_a_value() -> None:
    slots = [slot("image", "COMBO", widget=True), slot("upload", "IMAGEUPLOAD", widget=True)]
    load = inner(0, "Load", slots, ["IMAGE", "MASK"], ["x.png", "image"])
    scale = inner(1, "Scale", [slot("image", "IMAGE")], ["IMAGE"], [1.0])
    definition: Json = {"nodes": [load, scale], "links": [[0, 0, 1, 0, 5, "IMAGE"]]}
    data = ui([node(9, GROUP, [], ["MASK", "IMAGE"], [2.0, "y.png", "image"])], [])
    graph = import_ui(defined(data, definition), CATALOGUE)
    assert inputs(graph, "9:0") == {"image": "y.png"}
    assert inputs(graph, "9:1") == {"by": 2.0, "image": ["9:0", 0]}


def test_widgets_of_an_older_editor_that_the_class_does_not_declare_have_values() -> None:
    slots = [slot(name, "*", widget=True) for name in ("image", "player", "upload")]
    load = inner(0, "Load", slots, ["IMAGE", "MASK"], ["x.png", None, None])
    views = [slot("size", "INT", widget=True), slot("view", "*", widget=True)]
    compare = inner(1, "Compare", views, values=[1, ""])
    latent = inner(2, "Latent", outputs=["LATENT"], values=[1, 2])
    data = ui([node(9, GROUP, [], ["IMAGE"], [3, 4, "y.png", None, None, 5, ""])], [])
    graph = import_ui(defined(data, {"nodes": [load, compare, latent]}), CATALOGUE)
    assert inputs(graph, "9:0") == {"image": "y.png"}
    assert inputs(graph, "9:1")["size"] == 5
    assert inputs(graph, "9:2") == {"width": 3, "height": 4}


@pytest.mark.parametrize(
    ("values", "is_right"),
    [
        ([3, "k2", True], True),
        (["3", "k2", False], True),
        ([None, None, None], True),
        ([True, "k2", True], False),
        (["tall", "k2", True], False),
        ([3, {"k2": 1}, True], False),
        ([3, "k2", 1], False),
    ],
)
def test_values_of_other_types_than_the_widgets_are_refused(
    values: list[Any], is_right: bool
) -> None:
    nodes = [inner(0, "Old", values=[1, "k1", False])]
    data = defined(ui([node(9, GROUP, values=values)], []), {"nodes": nodes})
    if is_right:
        assert list(import_ui(data, CATALOGUE)) == ["9:0"]
    else:
        assert refusals(data) == [("group_node", "9")]


def test_values_of_many_inputs_come_in_the_order_of_their_numbers_as_texts() -> None:
    """Of twelve inputs, the editor sorts 10 and 11 before 2."""
    names = ["how", "how.w", "how.h", "crop"]
    many = [slot(f"gone{at}", "*") for at in range(8)]
    slots = [slot("image", "IMAGE"), *many, *(slot(n, "INT", widget=True) for n in names[:1]),
             slot("crop", "BOOLEAN", widget=True)]  # fmt: skip
    definition: Json = {"nodes": [inner(0, "Resize", slots, ["IMAGE"], ["size", 1, 2, True])]}
    data = ui([node(9, GROUP, [], ["IMAGE"], [False, "size", 5, 6])], [])
    assert inputs(import_ui(defined(data, definition), CATALOGUE), "9:0") == {
        "how": "size", "how.w": 5, "how.h": 6, "crop": False,
    }  # fmt: skip


def test_a_view_of_results_inside_takes_no_value() -> None:
    nodes = [inner(0, "Compare", values=[1]), inner(1, "Latent", outputs=["LATENT"], values=[1, 2])]
    data = ui([node(9, GROUP, [], ["LATENT"], [3, 4, 5])], [])
    graph = import_ui(defined(data, {"nodes": nodes}), CATALOGUE)
    assert inputs(graph, "9:0")["size"] == 3
    assert inputs(graph, "9:1") == {"width": 4, "height": 5}


def test_links_to_slots_that_do_not_exist_are_ignored() -> None:
    links = [*OLDER["links"], [0, 0, 1, 7, 1, "*"], [7, 0, 1, 0, 1, "*"], ["x", 0], [0, 0, 1, -1]]
    graph = import_ui(drawing(OLDER | {"links": links}), CATALOGUE)
    assert inputs(graph, "9:1") == {"width": 640, "height": 480}


def test_a_socket_that_the_definition_left_out_is_linked_all_the_same() -> None:
    bare = {key: v for key, v in OLDER["nodes"][2].items() if key != "inputs"}
    nodes = [*OLDER["nodes"][:2], bare]
    graph = import_ui(drawing(OLDER | {"nodes": nodes}), CATALOGUE)
    assert inputs(graph, "9:2")["latent"] == ["9:1", 0]


def test_a_group_node_inside_of_a_subgraph_is_read_too() -> None:
    group = node(9, GROUP, [slot("clip", "CLIP", 1), slot("model", "MODEL", 2)], ["LATENT"], VALUES)
    part = subgraph(
        "part", [group], [[1, -10, 0, 9, 0], [2, -10, 1, 9, 1], [3, 9, 0, -20, 0]],
        [slot("clip", "CLIP") | {"linkIds": [1]}, slot("model", "MODEL") | {"linkIds": [2]}],
        [slot("LATENT", "LATENT")],
    )  # fmt: skip
    nodes = [
        node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        node(5, "part", [slot("clip", "CLIP", 1), slot("model", "MODEL", 2)], ["LATENT"]),
        node(3, "Decode", [slot("samples", "LATENT", 3)], ["IMAGE"]),
    ]
    links = [[1, 1, 1, 5, 0, "CLIP"], [2, 1, 0, 5, 1, "MODEL"], [3, 5, 0, 3, 0, "LATENT"]]
    graph = import_ui(defined(ui(nodes, links, part), OLDER), CATALOGUE)
    assert inputs(graph, "5:9:2")["model"] == ["1", 0]
    assert inputs(graph, "3")["samples"] == ["5:9:2", 0]


def test_a_group_node_that_the_file_does_not_define_is_refused_with_the_way_out() -> None:
    data = drawing(kind="workflow>Other")
    assert refusals(data) == [("group_node", "9")]
    with pytest.raises(UiFormatError, match=r"'Other'.*convert it to nodes.*Export \(API\)"):
        import_ui(data, CATALOGUE)
    assert list(import_ui(drawing(kind="workflow>Other", mode=2), CATALOGUE)) == ["1", "3", "4"]


def test_groups_of_too_many_nodes_are_refused() -> None:
    many: Json = {"nodes": [{"type": "Mesh"}] * (MAX_GROUPED + 1)}
    assert refusals(defined(ui([node(9, GROUP)], []), many)) == [("group_node", "9")]
    linked = OLDER | {"links": [[0, 0, 2, 1, 12, "*"]] * 20 * MAX_GROUPED}
    assert refusals(drawing(linked)) == [("group_node", "9")]
    most: Json = {"nodes": [{"type": "Mesh"}] * MAX_GROUPED}
    nodes = [node(number, GROUP) for number in range(MAX_NODES // MAX_GROUPED + 1)]
    assert [code for code, _ in refusals(defined(ui(nodes, []), most))] == ["too_large"]


@pytest.mark.parametrize(
    "entry", [3, {}, {"type": "Mesh", "mode": "x"}, {"type": "Mesh", "inputs": [True]}]
)
def test_a_damaged_definition_is_refused(entry: Any) -> None:
    data = drawing(OLDER | {"nodes": [*OLDER["nodes"], entry]})
    assert refusals(data) == [("group_node", "9")]


def test_sockets_of_one_name_are_no_obstacle() -> None:
    data = drawing(slots=[slot("clip", "CLIP", 1), slot("?", "MODEL", 2), slot("?", "MODEL")])
    assert "9:2" in import_ui(data, CATALOGUE)


def test_a_group_node_with_another_inside_is_refused() -> None:
    nodes = [*OLDER["nodes"], inner(3, "workflow/Deep")]
    with pytest.raises(UiFormatError, match=r"'Draw'.*inside"):
        import_ui(drawing(OLDER | {"nodes": nodes}), CATALOGUE)


def test_unknown_classes_inside_are_refused_each_with_its_node_pack() -> None:
    more = [
        inner(3, "Gone", properties={"cnr_id": "some-pack", "ver": "1.2"}),
        inner(4, "Lost"),
    ]
    data = drawing(OLDER | {"nodes": [*OLDER["nodes"], *more]})
    assert refusals(data) == [("unknown_node", "9:3"), ("unknown_node", "9:4")]
    with pytest.raises(UiFormatError, match=r"some-pack 1\.2"):
        import_ui(data, CATALOGUE)


def test_sources_and_packs_of_nodes_inside_are_known() -> None:
    url = "https://example.com/b"
    model = {"name": "b.safetensors", "url": url, "directory": "checkpoints"}
    properties = {"models": [model], "cnr_id": "some-pack", "ver": "1.2.0"}
    loader = inner(0, "Loader", [], ["MODEL", "CLIP"], ["b.safetensors"], properties=properties)
    data = defined(ui([node(9, GROUP, [], ["MODEL", "CLIP"])], []), {"nodes": [loader]})
    found = drawing_of(data, import_ui(data, CATALOGUE), CATALOGUE)
    assert [source.name for source in found.models] == ["b.safetensors"]
    assert [pack.id for pack in found.packs] == ["some-pack"]
