"""Prefixes of saved files are filled in as the editor does it."""

import pytest

from comfysnap_schema.comfy.ui_export.convert import import_ui
from tests.schema.comfy.ui_export.drawing import CATALOGUE, Json, inputs, node, refusals, ui


def saving(prefix: str) -> Json:
    nodes = [
        node(1, "SaveImage", values=[prefix]),
        node(2, "Latent", values=[640, 480], title="Size"),
        node(3, "Encode", values=['a/b: "c"'], properties={"Node name for S&R": "Prompt"}),
        node(4, "Scale", values=[2.0]),
        node(5, "Old", values=[None, "k1", True]),
        node(6, "Old", values=[1, "k2", False]),
        node(7, "Nope", title="Gone", mode=4),
        node(8, "Sample", values=[7, "not a control"], mode=4),
    ]
    return ui(nodes, [])


@pytest.mark.parametrize(
    ("prefix", "sent"),
    [
        ("plain", "plain"),
        ("%width%x%height%", "%width%x%height%"),
        ("%date:yyyy-MM-dd%/x", "%year%-%month%-%day%/x"),
        ("%date:hhmmss%", "%hour%%minute%%second%"),
        ("%date:yyy%", "yyy"),
        ("%date:yyyy.MM%", "%date:yyyy.MM%"),
        ("%a.b.c%", "%a.b.c%"),
        ("%Latent.width%_%Size.height%", "640_480"),
        ("%Prompt.text%", "a_b_ _c_"),
        ("%Scale.by%", "2"),
        ("[%Old.size%] %Old.flag%", "[] true"),
        ("%Latent.gone%", "%Latent.gone%"),
        ("%Missing.width%", "%Missing.width%"),
        ("%Gone.width%", "%Gone.width%"),
        ("%Sample.seed%", "%Sample.seed%"),
    ],
)
def test_values_are_filled_in_and_dates_are_left_to_comfyui(prefix: str, sent: str) -> None:
    assert inputs(import_ui(saving(prefix), CATALOGUE), "1") == {"filename_prefix": sent}


def test_a_part_of_a_date_that_comfyui_does_not_fill_in_is_rejected() -> None:
    assert refusals(saving("%date:yy-M%")) == [("date_format", "1")]


def test_the_prefix_of_another_class_is_sent_as_it_is() -> None:
    graph = import_ui(ui([node(1, "Save", values=["%date:yyyy%"])], []), CATALOGUE)
    assert inputs(graph, "1") == {"prefix": "%date:yyyy%"}
