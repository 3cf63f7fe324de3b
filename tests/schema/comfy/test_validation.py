"""Validation before running: the same verdict as ComfyUI, reported by API field."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.comfy.validation import Issue, judge_graph, validate_graph


def entry(output: list[Any], output_node: bool = False, /, **required: Any) -> dict[str, Any]:
    return {"input": {"required": required}, "output": output, "output_node": output_node}


COLORS = ["red", "green"]
CLASSES: dict[str, Any] = {
    "Load": entry(
        ["MODEL", "VAE"],
        name=[["a.safetensors"], {}],
        picture=[["x.png"], {"image_upload": True}],
    ),
    "Make": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "steps": ["INT", {"min": 1, "max": 10}],
                "scale": ["FLOAT", {"min": 0.5}],
                "shift": ["FLOAT", {"max": 2.0}],
                "text": ["STRING", {}],
                "flag": ["BOOLEAN", {}],
                "color": [COLORS, {}],
                "mode": ["COMBO", {"options": ["fast", "slow"]}],
            },
            "optional": {
                "mask": ["MASK,IMAGE", {}],
                "tags": ["COMBO", {"options": ["x", "y"], "multiselect": True}],
                "remote": ["COMBO", {"remote": {}}],
                "floats": ["FLOATS", {"min": 0}],
                "folder": [[], {}],
                "count": ["INT", {}],
            },
        },
        "output": ["IMAGE", COLORS, "*", "COMBO"],
    },
    "Masked": entry(["MASK"], image=["IMAGE", {}]),
    "Save": entry([], True, images=["IMAGE", {}]),
    "Show": entry([], True, source=["*", {}]),
    "Paint": entry(["IMAGE"], color=[COLORS, {}], mode=["COMBO", {"options": ["fast"]}]),
}
CATALOGUE = Catalogue.parse(CLASSES)


def graph() -> dict[str, Any]:
    return {
        "1": {
            "class_type": "Load",
            "inputs": {"name": "a.safetensors", "picture": "anything.png", "upload": "image"},
        },
        "2": {
            "class_type": "Make",
            "inputs": {
                "model": ["1", 0], "steps": 4, "scale": 1, "shift": 1.0, "text": "hi",
                "flag": True, "color": "red", "mode": "fast",
            },
            "_meta": {"title": "The maker"},
        },
        "3": node("Save", images=["2", 0]),
    }  # fmt: skip


def changed(at: str = "2", **inputs: Any) -> dict[str, Any]:
    result = graph()
    result[at]["inputs"].update(inputs)
    return result


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def plus(nodes: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    return (base or graph()) | nodes


def only(found: list[Issue]) -> Issue:
    assert len(found) == 1, found
    return found[0]


def test_a_valid_graph_has_no_issues_and_its_output_runs() -> None:
    verdict = judge_graph(graph(), CATALOGUE)
    assert verdict.issues == ()
    assert verdict.outputs == {"3": True}
    assert verdict.accepted


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("steps", 0, "value_smaller_than_min"),
        ("steps", 11, "value_bigger_than_max"),
        ("steps", "eleven", "invalid_input_type"),
        ("steps", None, "invalid_input_type"),
        ("steps", {"a": 1}, "invalid_input_type"),
        ("steps", float("inf"), "invalid_input_type"),
        ("steps", {"__value__": 99}, "value_bigger_than_max"),
        ("scale", 0.25, "value_smaller_than_min"),
        ("scale", "x", "invalid_input_type"),
        ("shift", 2.5, "value_bigger_than_max"),
        ("color", "blue", "value_not_in_list"),
        ("color", 1, "value_not_in_list"),
        ("mode", "medium", "value_not_in_list"),
        ("tags", {"__value__": ["x", "z"]}, "value_not_in_list"),
        ("floats", "x", "invalid_input_type"),
        ("count", "x", "invalid_input_type"),
        ("color", [], "bad_linked_input"),
        ("color", ["1"], "bad_linked_input"),
        ("model", ["1", 0, 0], "bad_linked_input"),
        ("model", ["9", 0], "bad_linked_input"),
        ("model", [1, 0], "bad_linked_input"),
        ("model", ["1", "0"], "bad_linked_input"),
        ("model", ["1", 2], "bad_linked_input"),
        ("model", ["1", -3], "bad_linked_input"),
        ("model", ["1", 1], "return_type_mismatch"),
        ("mask", ["1", 0], "return_type_mismatch"),
        ("color", ["1", 0], "return_type_mismatch"),
    ],
)
def test_an_invalid_value_or_link_is_reported_with_its_place(
    name: str, value: Any, code: str
) -> None:
    fields = {f"2.inputs.{name}": "the_field"}
    found = only(validate_graph(changed(**{name: value}), CATALOGUE, fields))
    assert (found.code, found.node, found.input) == (code, "2", name)
    assert (found.field, found.title) == ("the_field", "The maker")
    problem = found.problem()
    assert (problem.field, problem.node) == ("the_field", "2")
    assert found.message in problem.message
    assert not judge_graph(changed(**{name: value}), CATALOGUE).accepted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "7"),
        ("steps", 3.9),
        ("steps", True),
        ("steps", {"__value__": 3}),
        ("scale", "1e3"),
        ("text", 5),
        ("text", {"__value__": "x"}),
        ("flag", "no"),
        ("mode", "slow"),
        ("tags", "x"),
        ("tags", {"__value__": ["x", "y"]}),
        ("remote", "anything"),
        ("folder", "anything"),
        ("model", ["1", -2]),
        ("floats", 3),
        ("not_declared", object.__name__),
    ],
)
def test_values_that_comfyui_converts_or_cannot_check_pass(name: str, value: Any) -> None:
    assert validate_graph(changed(**{name: value}), CATALOGUE) == []


def test_a_missing_input_is_reported_only_when_required() -> None:
    bad = graph()
    del bad["2"]["inputs"]["steps"]
    found = only(validate_graph(bad, CATALOGUE))
    assert (found.code, found.node, found.input) == ("required_input_missing", "2", "steps")
    assert found.field is None
    assert "1 to 10" in found.message


def test_an_unknown_class_blocks_every_output_even_in_unused_nodes() -> None:
    bad = plus({"9": node("Mask")})
    verdict = judge_graph(bad, CATALOGUE)
    found = only(list(verdict.issues))
    assert (found.code, found.node, found.input) == ("missing_node_type", "9", None)
    assert "'Make'" in found.message or "'Masked'" in found.message
    assert verdict.outputs == {"3": False}


def test_a_link_to_an_unknown_class_is_one_issue() -> None:
    bad = plus({"9": node("Zzz")}, changed(mask=["9", 0]))
    assert only(validate_graph(bad, CATALOGUE)).code == "missing_node_type"


def test_a_graph_without_output_node_is_rejected() -> None:
    bad = graph()
    del bad["3"]
    verdict = judge_graph(bad, CATALOGUE)
    found = only(list(verdict.issues))
    assert (found.code, found.node) == ("prompt_no_outputs", None)
    assert str(found) == found.message
    assert not verdict.accepted


def test_a_cycle_is_reported_once_and_its_outputs_fail() -> None:
    bad = graph()
    bad["2"]["inputs"]["mask"] = ["4", 0]
    bad["4"] = node("Masked", image=["2", 0])
    verdict = judge_graph(bad, CATALOGUE)
    found = only(list(verdict.issues))
    assert (found.code, found.node, found.input) == ("dependency_cycle", "4", "image")
    assert "2 -> 4 -> 2" in found.message
    assert verdict.outputs == {"3": False}


def test_a_node_linked_to_itself_is_a_cycle() -> None:
    assert only(validate_graph(changed(mask=["2", 0]), CATALOGUE)).code == "dependency_cycle"


def test_one_invalid_output_leaves_the_other_valid_but_the_graph_is_rejected() -> None:
    mixed = plus({"4": node("Save"), "5": node("Show", source=["2", 0])})
    verdict = judge_graph(mixed, CATALOGUE)
    assert verdict.outputs == {"3": True, "4": False, "5": True}
    assert verdict.accepted
    assert only(list(verdict.issues)).node == "4"


def test_an_issue_behind_an_output_fails_it_and_is_reported_once() -> None:
    bad = plus({"5": node("Show", source=["2", 0])}, changed(steps=0))
    verdict = judge_graph(bad, CATALOGUE)
    assert verdict.outputs == {"3": False, "5": False}
    assert only(list(verdict.issues)).node == "2"


def test_an_output_node_that_another_needs_is_checked_once() -> None:
    catalogue = Catalogue.parse(
        {"First": entry(["IMAGE"], True), "Save": entry([], True, images=["IMAGE"])}
    )
    both = {"2": node("Save", images=["1", 0]), "1": node("First")}
    assert judge_graph(both, catalogue).outputs == {"2": True, "1": True}


def test_nodes_that_no_output_needs_are_not_checked() -> None:
    unused = plus({"4": node("Make")})
    assert validate_graph(unused, CATALOGUE) == []


def test_the_any_type_and_a_common_type_are_accepted() -> None:
    good = graph()
    good["4"] = node("Show", source=["1", 0])
    good["5"] = node("Paint", color=["2", 1], mode=["2", 3])
    good["6"] = {"class_type": "Make", "inputs": good["2"]["inputs"] | {"mask": ["5", 0]}}
    good["7"] = node("Save", images=["6", 2])
    assert validate_graph(good, CATALOGUE) == []


def test_a_list_of_choices_fits_the_newer_combo_and_its_own_list_only() -> None:
    good = graph()
    good["5"] = node("Paint", color=["2", 1], mode=["2", 1])
    good["3"]["inputs"]["images"] = ["5", 0]
    assert validate_graph(good, CATALOGUE) == []
    good["5"]["inputs"]["color"] = ["2", 3]
    found = only(validate_graph(good, CATALOGUE))
    assert (found.input, found.code) == ("color", "return_type_mismatch")


def test_one_any_among_several_types_is_enough() -> None:
    catalogue = Catalogue.parse(
        {
            "Make": entry(["LATENT,*"]),
            "Save": entry([], True, images=["IMAGE"]),
            "Pick": entry([COLORS], True, color=[COLORS]),
            "Show": entry([], True, source=["IMAGE, *"]),
        }
    )
    good: Graph = {"1": node("Make"), "2": node("Save", images=["1", 0])}
    assert validate_graph(good, catalogue) == []
    bad: Graph = {"1": node("Make"), "2": node("Pick", color=["1", 0])}
    assert only(validate_graph(bad, catalogue)).code == "return_type_mismatch"
    listed: Graph = {"1": node("Pick", color="red"), "2": node("Show", source=["1", 0])}
    assert only(validate_graph(listed, catalogue)).code == "return_type_mismatch"


def test_only_a_list_of_names_may_be_linked_to_an_upload() -> None:
    catalogue = Catalogue.parse(
        {
            "Make": entry(["IMAGE", ["a.png"]]),
            "Load": entry([], True, picture=[["x.png"], {"image_upload": True}]),
        }
    )
    bad: Graph = {"1": node("Make"), "2": node("Load", picture=["1", 0])}
    assert only(validate_graph(bad, catalogue)).code == "return_type_mismatch"
    good: Graph = {"1": node("Make"), "2": node("Load", picture=["1", 1])}
    assert validate_graph(good, catalogue) == []


def test_the_matching_outputs_are_suggested() -> None:
    bad = graph()
    bad["3"]["inputs"]["images"] = ["2", 3]
    assert "output 0 or 2" in only(validate_graph(bad, CATALOGUE)).message


def test_model_files_are_trusted_unless_asked_for_and_uploads_always() -> None:
    other = changed("1", name="other.safetensors", picture="new.png")
    assert validate_graph(other, CATALOGUE) == []
    found = only(validate_graph(other, CATALOGUE, check_models=True))
    assert (found.code, found.node, found.input) == ("value_not_in_list", "1", "name")
    for name in ("folder", "remote"):
        found = only(validate_graph(changed(**{name: "x"}), CATALOGUE, check_models=True))
        assert (found.code, found.input) == ("value_not_in_list", name)


def test_a_name_with_the_slashes_of_windows_is_reported_with_the_right_one() -> None:
    catalogue = Catalogue.parse({"Save": entry([], True, name=[["XL/a.safetensors", "b.ckpt"]])})
    bad: Graph = {"1": node("Save", name="XL\\a.safetensors")}
    found = only(validate_graph(bad, catalogue))
    assert found.code == "value_not_in_list"
    assert "'XL/a.safetensors'" in found.message
    trusted: Graph = {"1": node("Save", name="XL\\other.safetensors")}
    assert validate_graph(trusted, catalogue) == []


def test_a_malformed_class_is_reported_as_such() -> None:
    catalogue = Catalogue.parse({**CLASSES, "Sloppy": {"input": {}, "output": "IMAGE"}})
    found = only(validate_graph(plus({"9": node("Sloppy")}), catalogue))
    assert (found.code, found.node) == ("missing_node_type", "9")
    assert "malformed" in found.message


def test_a_similar_choice_is_suggested() -> None:
    assert "'green'" in only(validate_graph(changed(color="greem"), CATALOGUE)).message


@pytest.mark.parametrize("value", ["x" * 999, "blue"])
def test_messages_stay_short(value: str) -> None:
    assert len(only(validate_graph(changed(color=value), CATALOGUE)).message) < 200


def test_long_lists_of_choices_are_truncated() -> None:
    many = Catalogue.parse(
        {"Save": entry([], True, kind=[[f"kind{index}" for index in range(30)], {}])}
    )
    bad: Graph = {"1": node("Save", kind="zzz")}
    assert "18 more" in only(validate_graph(bad, many)).message


DESCRIBED: list[tuple[list[Any], str]] = [
    (["INT", {"min": 1}], "at least 1"),
    (["INT", {"max": 1}], "at most 1"),
    (["STRING"], "a string"),
    (["BOOLEAN"], "true or false"),
    (["MODEL"], "MODEL"),
    ([["x.png"], {"image_upload": True}], "image"),
    ([[], {}], "file"),
    (["COMBO", {"remote": {}}], "server"),
    ([["a"], {}], "one of a"),
]


@pytest.mark.parametrize(
    ("spec", "words"),
    DESCRIBED,
)
def test_a_missing_input_is_reported_with_what_it_accepts(spec: Any, words: str) -> None:
    bad: Graph = {"1": node("Save")}
    catalogue = Catalogue.parse({"Save": entry([], True, value=spec)})
    assert words in only(validate_graph(bad, catalogue)).message


def test_outputs_that_a_caller_expects_must_be_output_nodes() -> None:
    found = validate_graph(graph(), CATALOGUE, outputs=["3", "2", "8"])
    assert [(each.code, each.node) for each in found] == [
        ("not_an_output_node", "2"),
        ("not_an_output_node", "8"),
    ]
    unknown = plus({"9": node("Zzz")})
    assert only(validate_graph(unknown, CATALOGUE, outputs=["9"])).code == "missing_node_type"


def test_dynamic_inputs_are_checked_by_their_dotted_names() -> None:
    options: Any = [
        {"key": "size", "inputs": {"required": {"width": ["INT", {"min": 1}]}}},
        {"key": "none", "inputs": {"required": {}}},
    ]
    catalogue = Catalogue.parse(
        {"Save": entry([], True, how=["COMFY_DYNAMICCOMBO_V3", {"options": options}])}
    )
    good: Graph = {"1": node("Save", how="none")}
    assert validate_graph(good, catalogue) == []
    bad: Graph = {"1": node("Save", how="size")}
    assert only(validate_graph(bad, catalogue)).input == "how.width"
    wrong: Graph = {"1": node("Save", how="other")}
    assert only(validate_graph(wrong, catalogue)).code == "value_not_in_list"


def test_a_deep_graph_does_not_exhaust_the_stack() -> None:
    deep: dict[str, Any] = {
        str(index): node("Masked", image=[str(index + 1), 0]) for index in range(1, 5000)
    }
    deep["5000"] = node("Paint", color="red", mode="fast")
    deep["0"] = node("Show", source=["4999", 0])
    assert validate_graph(deep, CATALOGUE) == []


def test_the_graph_is_not_changed() -> None:
    given = changed(steps="7", tags={"__value__": ["x"]})
    before = copy.deepcopy(given)
    validate_graph(given, CATALOGUE)
    assert given == before


@pytest.mark.shared
def test_real_exports_pass_but_for_the_class_that_is_missing(shared: Path) -> None:
    catalogue = Catalogue.read(shared / "object_info.json")
    for file in sorted((shared / "workflows").glob("*.json")):
        found = validate_graph(json.loads(file.read_text()), catalogue)
        expected = ["missing_node_type"] if "resize" in file.name else []
        assert [each.code for each in found] == expected, file.name
