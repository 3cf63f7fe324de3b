"""Widget values: bare lists whose order only the class defines."""

from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.convert import import_ui
from comfysnap_schema.wire.errors import UiFormatError
from tests.schema.comfy.ui_export.drawing import CATALOGUE, inputs, node, refusals, slot, ui


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


def test_missing_values_are_those_of_a_new_widget() -> None:
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
    graph = import_ui(ui([node(1, "Loader", values=[None])], []), CATALOGUE)
    assert inputs(graph, "1") == {"name": "a.safetensors"}


def test_values_of_inputs_that_became_sockets_are_dropped_when_the_count_matches() -> None:
    graph = import_ui(ui([node(1, "Old", values=[3, 8, "k2", True])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 8, "kind": "k2", "flag": True}
    graph = import_ui(ui([node(1, "Old", values=[8, "k2", True])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 8, "kind": "k2", "flag": True}


def test_dynamic_combos_add_their_widgets() -> None:
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


def test_a_prompt_with_random_choices_is_rejected() -> None:
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


def test_sockets_that_the_file_left_out_still_count_for_bypassing() -> None:
    nodes = [
        node(1, "NotMade", outputs=["B", "A"], mode=2),
        node(2, "Swap", [slot("a", "A", 1)], ["A", "B"], mode=4),
        node(3, "Swap", [slot("a", "A", 2)], ["A", "B"]),
    ]
    graph = import_ui(ui(nodes, [[1, 1, 1, 2, 1, "A"], [2, 2, 0, 3, 1, "A"]]), CATALOGUE)
    assert inputs(graph, "3") == {}


def test_an_input_of_a_custom_editor_widget_is_rejected() -> None:
    assert refusals(ui([node(1, "Draw", values=["..."])], [])) == [("custom_widget", "1")]
    drawn = [slot("canvas", "DRAWING", widget=True)]
    assert refusals(ui([node(1, "Draw", drawn)], [])) == [("custom_widget", "1")]


def test_an_input_that_is_a_socket_and_not_linked_is_left_to_validation() -> None:
    graph = import_ui(ui([node(1, "Draw", [slot("canvas", "DRAWING")])], []), CATALOGUE)
    assert inputs(graph, "1") == {}


def test_more_values_than_a_pack_declares_are_custom_widgets() -> None:
    assert refusals(ui([node(1, "Pack", values=[1, {"lora": "x"}])], [])) == [
        ("custom_widget", "1")
    ]
    graph = import_ui(ui([node(1, "Pack", values=[1, None])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 1}
    graph = import_ui(ui([node(1, "ShowText|pysssss", values=["a", "b"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"text": "a"}


@pytest.mark.parametrize("control", [30, "odd", None, ["fixed"], {"fixed": 1}])
def test_an_unexpected_control_value_of_a_seed_is_rejected(control: Any) -> None:
    assert refusals(ui([node(1, "Sample", values=[7, control])], [])) == [("widget_values", "1")]


def test_widgets_for_colours_curves_areas_and_paintings_take_their_values_in_order() -> None:
    area = {"x": 1, "y": 2, "width": 3, "height": 4}
    values: list[Any] = [
        "#00ff00", "#0000ff", ["#111111"], {"points": [], "interpolation": "linear"},
        area, 1, 2, 3, 4, [area], "painted.png [input]", {"min": 0.5, "max": 1.0}, {"a": 1},
        "# note", 0.5,
    ]  # fmt: skip
    graph = import_ui(ui([node(1, "Tint", values=values)], []), CATALOGUE)
    assert inputs(graph, "1") == {
        "colour": "#00ff00",
        "plain": "#0000ff",
        "palette": {"__value__": ["#111111"]},
        "curve": {"points": [], "interpolation": "linear"},
        "area": area,
        "boxes": {"__value__": [area]},
        "mask": "painted.png [input]",
        "level": {"min": 0.5, "max": 1.0},
        "layers": {"a": 1},
        "notes": "# note",
        "strength": 0.5,
    }


def test_new_widgets_of_these_kinds_have_values_too() -> None:
    graph = import_ui(ui([node(1, "Tint")], []), CATALOGUE)
    assert inputs(graph, "1") == {
        "colour": "#ff0000",
        "plain": "#000000",
        "palette": {"__value__": []},
        "curve": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
        "area": {"x": 0, "y": 0, "width": 512, "height": 512},
        "boxes": {"__value__": []},
        "mask": "",
        "level": {"min": 0.0, "max": 1.0},
        "layers": {},
        "notes": "",
        "strength": 1.0,
    }


def test_an_older_curve_of_points_is_sent_with_its_type() -> None:
    values = ["#0", "#0", [], [[0, 0], [1, 1]]]
    graph = import_ui(ui([node(1, "Tint", values=values)], []), CATALOGUE)
    assert inputs(graph, "1")["curve"] == {"__type__": "CURVE", "__value__": [[0, 0], [1, 1]]}


def test_the_switch_and_the_button_of_remote_choices_take_values() -> None:
    graph = import_ui(
        ui([node(1, "Reload", values=["x.png", False, "refresh", 64, "image"])], []), CATALOGUE
    )
    assert inputs(graph, "1") == {"image": "x.png", "refresh": "refresh", "size": 64}
    graph = import_ui(ui([node(1, "Remote", values=["x", False, "s"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"name": "x", "combo_seed": "s"}


def test_a_widget_type_that_must_be_linked_is_a_socket() -> None:
    graph = import_ui(ui([node(1, "Socket", values=[7])], []), CATALOGUE)
    assert inputs(graph, "1") == {"size": 7}


def test_a_view_of_results_is_sent_without_taking_a_value() -> None:
    graph = import_ui(ui([node(1, "Compare", values=[7])], []), CATALOGUE)
    assert inputs(graph, "1") == {"view": {"__value__": ["", ""]}, "size": 7}
    nodes = [node(1, "Mesh", outputs=["MESH"]), node(2, "SaveGLB", [slot("mesh", "MESH", 1)])]
    graph = import_ui(ui(nodes, [[1, 1, 0, 2, 0, "MESH"]]), CATALOGUE)
    assert inputs(graph, "2") == {"mesh": ["1", 0], "filename_prefix": "mesh", "image": ""}


def test_values_that_the_editor_records_for_each_job_are_rejected() -> None:
    assert refusals(ui([node(1, "Photo", values=["x"])], [])) == [("custom_widget", "1")]


def test_controls_and_filters_take_values_that_are_not_sent() -> None:
    values = ["q", "increment-wrap", "/a/", 0.25, "fixed", 9, 64]
    graph = import_ui(ui([node(1, "Random", values=values)], []), CATALOGUE)
    assert inputs(graph, "1") == {"choice": "q", "number": 0.25, "seed": 9, "size": 64}


def test_a_nested_seed_has_a_control_only_if_it_declares_one() -> None:
    graph = import_ui(ui([node(1, "Mode", values=["on", 7, "{a|b}", 64])], []), CATALOGUE)
    assert inputs(graph, "1") == {
        "sampling": "on", "sampling.seed": 7, "sampling.note": "{a|b}", "size": 64,
    }  # fmt: skip
    graph = import_ui(ui([node(1, "Mode", values=["off", 64])], []), CATALOGUE)
    assert inputs(graph, "1") == {"sampling": "off", "size": 64}


def test_a_nested_control_outlives_its_choice_as_in_the_editor() -> None:
    graph = import_ui(ui([node(1, "Kept", values=["a", 1, "fixed", "fixed", 5])], []), CATALOGUE)
    assert inputs(graph, "1") == {"how": "a", "how.n": 1, "size": 5}
    graph = import_ui(ui([node(1, "Kept", values=["b", "fixed", 5])], []), CATALOGUE)
    assert inputs(graph, "1") == {"how": "b", "size": 5}


def test_inputs_of_a_choice_that_is_not_made_are_dropped_with_their_links() -> None:
    sockets = [
        slot("sampling.images.image0", "IMAGE", 1),
        slot("sampling.images.image1", "IMAGE", 2),
        slot("gone", "INT", 3, widget=True),
    ]
    nodes = [
        node(1, "Load", outputs=["IMAGE"], values=["x.png"]),
        node(2, "Mode", sockets, ["IMAGE"], ["on", 7, "", 64]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 2, 1, "IMAGE"], [3, 1, 0, 2, 2, "INT"]]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "2") == {
        "sampling": "on", "sampling.seed": 7, "sampling.note": "", "size": 64,
        "sampling.images.image0": ["1", 0], "sampling.images.image1": ["1", 0],
    }  # fmt: skip
    nodes[1]["widgets_values"] = ["off", 64]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "2") == {"sampling": "off", "size": 64}


def test_growing_inputs_with_widgets_come_before_all_others() -> None:
    graph = import_ui(ui([node(1, "Texts", values=["hello", 9])], []), CATALOGUE)
    assert inputs(graph, "1") == {"texts.a": "hello", "size": 9}


def test_a_custom_combo_sends_its_options_and_the_index_of_the_chosen_one() -> None:
    options = ["two", 5, "one", "two", "", "after the end"]
    graph = import_ui(ui([node(1, "CustomCombo", values=options)], []), CATALOGUE)
    assert inputs(graph, "1") == {
        "choice": "two", "index": 1, "option1": "one", "option2": "two", "option3": "",
    }  # fmt: skip
    graph = import_ui(ui([node(1, "CustomCombo")], []), CATALOGUE)
    assert inputs(graph, "1") == {"index": -1, "option1": ""}


def test_a_bypassed_node_counts_grown_and_chosen_inputs_in_the_order_of_the_editor() -> None:
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png"]),
        node(2, "Mode", [slot("sampling.images.image0", "IMAGE", 1)], ["IMAGE"], mode=4),
        node(3, "Match", [slot("any", "IMAGE", 2)], ["IMAGE"], mode=4),
        node(4, "Save", [slot("images", "IMAGE", 3)]),
        node(5, "Match", outputs=["IMAGE"], mode=4),
        node(6, "Save", [slot("images", "IMAGE", 4)]),
    ]
    links = [
        [1, 1, 0, 2, 0, "IMAGE"],
        [2, 2, 0, 3, 0, "IMAGE"],
        [3, 3, 0, 4, 0, "IMAGE"],
        [4, 5, 0, 6, 0, "IMAGE"],
    ]
    graph = import_ui(ui(nodes, links), CATALOGUE)
    assert inputs(graph, "4") == {"images": ["1", 0], "prefix": "ComfyUI"}
    assert inputs(graph, "6") == {"prefix": "ComfyUI"}


RECORDED = {"Load3D", "WebcamCapture", "RecordAudio"}
VIEWS_3D = {
    "Load3DAdvanced", "Preview3DAdvanced", "PreviewGaussianSplat", "PreviewPointCloud",
    "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud",
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "recorded"),
    [
        ("object_info.json", {*RECORDED, "Load3DAnimation"}),
        ("object_info-0.33.json", RECORDED | VIEWS_3D),
    ],
)
def test_a_new_node_of_every_class_of_comfyui_is_read(
    shared: Path, file: str, recorded: set[str]
) -> None:
    catalogue = Catalogue.read(shared / file)
    names = list(catalogue)
    drawing = ui([node(number, name) for number, name in enumerate(names)], [])
    with pytest.raises(UiFormatError) as caught:
        import_ui(drawing, catalogue)
    assert {code for code, _, _ in caught.value.refused} == {"custom_widget"}
    refused = {names[int(number)] for _, number, _ in caught.value.refused}
    assert refused == recorded


@pytest.mark.shared
def test_every_choice_of_a_dynamic_combo_of_comfyui_adds_its_inputs(shared: Path) -> None:
    catalogue = Catalogue.read(shared / "object_info-0.33.json")
    read = 0
    for name in catalogue:
        for entry in catalogue[name].declared:
            for choice in entry.dynamic.options if entry.dynamic is not None else ():
                data = ui([node(1, name, values={entry.name: choice})], [])
                found = inputs(import_ui(data, catalogue), "1")
                assert found[entry.name] == choice
                added = {each for each in found if each.startswith(f"{entry.name}.")}
                assert added <= catalogue[name].expand(found).keys(), name
                read += 1
    assert read > 300
