"""Widget values: bare lists whose order only the class defines."""

import pytest

from comfysnap_schema.comfy.ui_export.convert import import_ui
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


def test_an_unexpected_control_value_of_a_seed_is_rejected() -> None:
    assert refusals(ui([node(1, "Sample", values=[7, 30])], [])) == [("widget_values", "1")]
