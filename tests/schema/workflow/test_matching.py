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


def sampled(kind: str, name: str, **inputs: Any) -> Graph:
    """A latent of some class, which a sampler reads, and a save node."""
    return {
        name: node(kind, **inputs),
        f"{name}s": node("Sampler", "Sample", latent=[name, 0], seed=1),
        f"{name}o": node("Save", "Save", images=[f"{name}s", 0], prefix="x"),
    }


def test_a_node_of_another_class_in_the_same_place_is_the_same() -> None:
    old = sampled("Latent", "1", width=8, height=8)
    found = match_nodes(old, sampled("NewLatent", "7", width=16, height=16, count=1))
    assert found.nodes == {"1": "7", "1s": "7s", "1o": "7o"}
    assert not found.doubts


def test_an_output_node_of_another_class_is_found_by_what_it_reads() -> None:
    old = sampled("Latent", "1", width=8)
    new = sampled("Latent", "7", width=8)
    new["9"] = node("SaveBetter", images=["7s", 0], prefix="x", quality=3)
    del new["7o"]
    assert match_nodes(old, new).nodes["1o"] == "9"


@pytest.mark.parametrize(
    "new",
    [
        sampled("NewLatent", "7", side=16),
        sampled("NewLatent", "7", width=["7b", 0]) | {"7b": node("Int", value=3)},
        sampled("NewLatent", "7", width=8) | {"7s": node("Sampler", "Sample", other=["7", 0])},
        sampled("NewLatent", "7", width=8) | {"1": node("NewLatent", width=8)},
        {"7": node("Alone", width=8)},
    ],
)
def test_a_node_of_another_class_elsewhere_is_not_guessed(new: Graph) -> None:
    assert "1" in match_nodes(sampled("Latent", "1", width=8), new).doubts


def test_a_node_of_another_class_with_another_source_is_not_guessed() -> None:
    old: Graph = {
        "1": node("Load", name="a"),
        "2": node("Blur", image=["1", 0]),
        "3": node("Save", images=["2", 0]),
    }
    new: Graph = {
        "7": node("Load", name="a"),
        "8": node("Make", size=1),
        "9": node("Sharpen", image=["8", 0]),
        "6": node("Save", images=["9", 0]),
    }
    assert "2" in match_nodes(old, new).doubts


def test_an_id_that_another_node_took_does_not_hide_the_place() -> None:
    new = sampled("NewLatent", "7", width=8)
    new["1"], new["7o"]["inputs"]["images"] = new.pop("7s"), ["1", 0]
    found = match_nodes(sampled("Latent", "1", width=8), new)
    assert (found.nodes["1"], found.nodes["1s"]) == ("7", "1")
    same = sampled("NewLatent", "1", width=8)
    renamed: Graph = {"1": same["1"], "x": same["1s"], "y": same["1o"]}
    renamed["y"]["inputs"]["images"] = ["x", 0]
    assert match_nodes(sampled("Latent", "1", width=8), renamed).nodes["1"] == "1"
