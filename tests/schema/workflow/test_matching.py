"""Nodes of a graph in a later export, without ids to go by."""

from typing import Any

import pytest

from comfysnap_schema.comfy import Graph
from comfysnap_schema.workflow import match_nodes


def node(kind: str, title: str = "", **inputs: Any) -> Any:
    meta = {"_meta": {"title": title}} if title else {}
    return {"class_type": kind, "inputs": inputs, **meta}


def two_prompts(*names: str, swap: bool = False, title: str = "") -> Graph:
    """A sampler with two prompts, whose ids are given."""
    one, other, sampler = names
    ends = (other, one) if swap else (one, other)
    return {
        one: node("Encode", title, text="a fox"),
        other: node("Encode", text="rain"),
        sampler: node("Sampler", positive=[ends[0], 0], negative=[ends[1], 0]),
    }


def test_nodes_are_told_apart_by_their_links() -> None:
    found = match_nodes(two_prompts("1", "2", "3"), two_prompts("a", "b", "c"))
    assert found.nodes == {"1": "a", "2": "b", "3": "c"}
    assert not found.doubts


def test_a_title_and_links_that_contradict_each_other_are_a_doubt() -> None:
    old = two_prompts("1", "2", "3", title="Fox")
    found = match_nodes(old, two_prompts("a", "b", "c", swap=True, title="Fox"))
    assert "1" not in found.nodes
    assert "may be one of several Encode nodes: a, b" in found.doubts["1"]


def test_nodes_of_equal_links_are_told_apart_by_their_values() -> None:
    old: Graph = {"1": node("Save", name="a"), "2": node("Save", name="b")}
    new: Graph = {"x": node("Save", name="b"), "y": node("Save", name="a")}
    assert match_nodes(old, new).nodes == {"1": "y", "2": "x"}


def test_equal_nodes_are_a_doubt() -> None:
    old: Graph = {"1": node("Save", name="a"), "2": node("Save", name="a")}
    new: Graph = {"x": node("Save", name="a"), "y": node("Save", name="a")}
    assert set(match_nodes(old, new).doubts) == {"1", "2"}


@pytest.mark.parametrize(("title", "is_found"), [("Mine", True), ("Other", False)])
def test_the_only_node_of_a_class_is_the_same_if_its_title_is(title: str, is_found: bool) -> None:
    old: Graph = {"1": node("Load", name="a"), "2": node("Save", "Mine", images=["1", 0])}
    new: Graph = {"x": node("Crop", name="b"), "y": node("Save", title, images=["x", 1])}
    found = match_nodes(old, new)
    assert (found.nodes.get("2") == "y") is is_found
    assert ("may be node y" in found.doubts.get("2", "")) is not is_found


def test_a_given_match_is_kept() -> None:
    old = two_prompts("1", "2", "3")
    found = match_nodes(old, two_prompts("1", "2", "3"), {"1": "2", "2": "1"})
    assert found.nodes == {"1": "2", "2": "1", "3": "3"}
