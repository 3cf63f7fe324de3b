"""Links of cg-use-everywhere, which the editor makes only when it queues a prompt."""

from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.convert import import_ui
from comfysnap_schema.wire.errors import UiFormatError
from tests.schema.comfy.ui_export.drawing import CLASSES, Json, entry, inputs, node, slot, ui

BROADCAST = "Anything Everywhere"
CATALOGUE = Catalogue.parse(CLASSES | {BROADCAST: entry([], {"anything": ["*"]})})
WRITTEN: Json = {
    "downstream": 3, "downstream_slot": 0, "upstream": "2", "upstream_slot": 0, "controller": 4,
    "type": "IMAGE",
}  # fmt: skip


def drawing(*written: Json, sent: int | None = 2, **broadcast: Any) -> Json:
    """A picture that reaches a save node by no drawn link, and one that does."""
    nodes = [
        node(1, "Load", outputs=["IMAGE", "MASK"], values=["x.png", "image"]),
        node(2, "Scale", [slot("image", "IMAGE", 1)], ["IMAGE"], [2.0]),
        node(3, "Save", [slot("images", "IMAGE")], values=["out"]),
        node(4, BROADCAST, [slot("anything", "*", sent)], **broadcast),
        node(5, "Save", [slot("images", "IMAGE", 3)], values=["own"]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 4, 0, "IMAGE"], [3, 1, 0, 5, 0, "IMAGE"]]
    return ui(nodes, links) | {"extra": {"ue_links": list(written)}}


def test_links_that_the_file_has_are_drawn_where_none_is() -> None:
    taken = WRITTEN | {"downstream": 5}
    graph = import_ui(drawing(WRITTEN, taken), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["2", 0]
    assert inputs(graph, "5")["images"] == ["1", 0]


@pytest.mark.parametrize(
    "useless",
    [{"downstream": 9}, {"upstream": "9"}, {"downstream_slot": 7}, {"upstream_slot": "0"}],
)
def test_a_link_that_leads_nowhere_is_not_drawn(useless: Json) -> None:
    graph = import_ui(drawing(WRITTEN, WRITTEN | useless), CATALOGUE)
    assert inputs(graph, "3")["images"] == ["2", 0]


def test_a_node_whose_links_are_not_in_the_file_is_refused_by_name() -> None:
    with pytest.raises(UiFormatError) as caught:
        import_ui(drawing(), CATALOGUE)
    ((code, name, message),) = caught.value.refused
    assert (code, name) == ("hidden_links", "4")
    assert BROADCAST in message


@pytest.mark.parametrize("idle", [{"sent": None}, {"mode": 2}])
def test_a_node_that_broadcasts_nothing_is_no_obstacle(idle: Json) -> None:
    graph = import_ui(drawing(**idle), CATALOGUE)
    assert "images" not in inputs(graph, "3")
