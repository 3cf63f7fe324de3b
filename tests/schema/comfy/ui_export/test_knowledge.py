"""What a UI export says beside its graph."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.ui_export.convert import import_ui, read_export
from comfysnap_schema.comfy.ui_export.knowledge import (
    Drawing,
    ModelSource,
    drawing_of,
    read_drawing,
)
from comfysnap_schema.comfy.ui_export.packs import UsedPack
from tests.schema.comfy.test_picture import box, exif, png, webp
from tests.schema.comfy.ui_export.drawing import CATALOGUE, Json, node, pipeline, slot, subgraph, ui

GRAPH_ID = "e13112f7-3d09-4ae1-9e84-633a0627d945"


def drawn(data: Json) -> Drawing:
    return drawing_of(data, import_ui(data, CATALOGUE), CATALOGUE)


def app(data: Json, inputs: list[Any], outputs: list[Any] | None = None) -> Drawing:
    return drawn(data | {"extra": {"linearData": {"inputs": inputs, "outputs": outputs or []}}})


def chosen(drawing: Drawing) -> dict[str, list[str]]:
    return {widget.name: [str(path) for path in widget.paths] for widget in drawing.inputs}


def shown(drawing: Drawing) -> dict[str, list[str]]:
    return {widget.name: [str(path) for path in widget.paths] for widget in drawing.shown}


def with_subgraph(
    values: Any = None, *, mode: int = 0, proxies: list[list[str]] | None = None
) -> Json:
    """A subgraph whose inputs set a text and, together, two widths; a primitive through a reroute
    sets its second width from outside."""
    inner = subgraph(
        "sub",
        [
            node(10, "Encode", [slot("text", "STRING", 1, widget=True)], ["CONDITIONING"], ["fox"]),
            node(11, "Latent", [slot("width", "INT", 2, widget=True)], ["LATENT"], [1, 2]),
            node(12, "Latent", [slot("width", "INT", 3, widget=True)], ["LATENT"], [1, 2]),
        ],
        [
            [1, -10, 0, 10, 0],
            [2, -10, 1, 11, 0],
            [3, -10, 1, 12, 0],
            [4, 10, 0, -20, 0],
            [5, 11, 0, -20, 1],
            [6, -10, 1, 99, 0],
        ],
        [slot("text", "STRING") | {"label": "what_to_draw"}, slot("width", "INT")],
        [slot("cond", "CONDITIONING"), slot("latent", "LATENT")],
    )
    outside = node(
        2,
        "sub",
        [slot("text", "STRING"), slot("width", "INT", 8, widget=True)],
        ["CONDITIONING", "LATENT"],
        values,
        properties={"proxyWidgets": proxies},
        mode=mode,
    )
    nodes = [
        outside,
        node(3, "Sample", [slot("positive", "CONDITIONING", 4)], values=[1, "fixed", 2]),
        node(5, "PrimitiveNode", outputs=["INT"], values=[640]),
        node(6, "Reroute", [slot("", "*", 7)], ["*"]),
    ]
    links = [
        [4, 2, 0, 3, 0, "CONDITIONING"],
        [7, 5, 0, 6, 0, "INT"],
        [8, 6, 0, 2, 1, "INT"],
    ]
    return ui(nodes, links, inner)


def test_an_export_in_api_format_or_in_a_damaged_picture_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("{}")
    assert read_drawing(file, {}, CATALOGUE) == Drawing()
    file.write_bytes(b"\x89PNG")
    assert read_drawing(file, {}, CATALOGUE) == Drawing()
    data = pipeline() | {"extra": {"linearData": {"outputs": ["6"]}}}
    file.write_text(json.dumps(data))
    assert read_drawing(file, {}, None) == Drawing()
    assert read_drawing(file, import_ui(data, CATALOGUE), CATALOGUE).outputs == ("6",)


def as_png(data: Json) -> bytes:
    graph = json.dumps(import_ui(data, CATALOGUE)).encode()
    drawing = json.dumps(data).encode()
    return png((b"tEXt", b"prompt\0" + graph), (b"tEXt", b"workflow\0" + drawing))


def as_webp(data: Json) -> bytes:
    return webp(exif("<", b"workflow:" + json.dumps(data).encode() + b"\0"))


def as_mp4(data: Json) -> bytes:
    comment = json.dumps({"prompt": import_ui(data, CATALOGUE), "workflow": json.dumps(data)})
    user = box(b"udta", box(b"\xa9cmt", bytes(4), comment.encode()))
    return box(b"ftyp", b"isom") + box(b"moov", user)


@pytest.mark.parametrize("saved", [as_png, as_webp, as_mp4])
def test_app_mode_is_read_from_a_picture_or_a_video_as_from_the_export(
    tmp_path: Path, saved: Callable[[Json], bytes]
) -> None:
    choice = {"inputs": [["4", "steps"], ["2", "text"]], "outputs": ["6"]}
    data = pipeline() | {"extra": {"linearData": choice}}
    file = tmp_path / "saved"
    file.write_bytes(saved(data))
    graph = read_export(file, CATALOGUE)
    assert read_drawing(file, graph, CATALOGUE) == drawn(data)
    assert chosen(drawn(data)) == {"steps": ["4.inputs.steps"], "text": ["2.inputs.text"]}


def test_a_damaged_drawing_beside_a_graph_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(png((b"tEXt", b'workflow\0{"nodes": [{}], "links": []}')))
    assert read_drawing(file, {}, CATALOGUE) == Drawing()


def test_inputs_and_outputs_of_app_mode_are_found() -> None:
    found = app(
        pipeline(),
        [["4", "steps"], [2, "text"], [f"{GRAPH_ID}:3:width", "width"], ["4", "seed", {"h": 1}]],
        ["6", 6],
    )
    assert chosen(found) == {
        "steps": ["4.inputs.steps"],
        "text": ["2.inputs.text"],
        "width": ["3.inputs.width"],
        "seed": ["4.inputs.seed"],
    }
    assert found.outputs == ("6",)


@pytest.mark.parametrize("entry", [["99", "steps"], ["4", "gone"], ["4"], [], "4"])
def test_what_app_mode_names_and_is_gone_is_left_out(entry: Any) -> None:
    found = app(pipeline(), [entry], ["99", 1.5])
    assert (found.inputs, found.outputs) == ((), ())


@pytest.mark.parametrize("extra", [None, [], {"linearData": 3}, {"linearData": {"inputs": 3}}])
def test_an_odd_choice_is_no_choice(extra: Any) -> None:
    assert drawn(pipeline() | {"extra": extra}) == Drawing()


def test_a_widget_of_a_subgraph_sets_every_input_behind_it() -> None:
    data = with_subgraph(["a fox", 640])
    assert chosen(app(data, [["2", "text"], ["2", "width"]])) == {
        "text": ["2:10.inputs.text"],
        "width": ["2:11.inputs.width", "2:12.inputs.width"],
    }
    assert chosen(app(data, [["11", "height"]])) == {"height": ["2:11.inputs.height"]}


def test_a_primitive_sets_what_it_is_linked_to_through_reroutes_and_subgraphs() -> None:
    assert chosen(app(with_subgraph(["a fox", 640]), [["5", "value"]])) == {
        "value": ["2:11.inputs.width", "2:12.inputs.width"]
    }


def test_reroutes_in_a_circle_set_nothing() -> None:
    data = pipeline(
        a=node(20, "Reroute", [slot("", "*", 30)], ["*"]),
        b=node(21, "Reroute", [slot("", "*", 31)], ["*"]),
        c=node(22, "PrimitiveNode", outputs=["INT"], values=[1]),
    )
    data["links"] += [[30, 21, 0, 20, 0, "*"], [31, 20, 0, 21, 0, "*"], [32, 22, 0, 20, 0, "*"]]
    assert chosen(app(data, [["22", "value"]])) == {}


def test_unlinked_inputs_of_a_subgraph_and_widgets_it_shows_are_shown() -> None:
    proxies = [["11", "height"], ["-1", "text"], ["99", "gone"]]
    found = drawn(with_subgraph([2, "a fox", None], proxies=proxies))
    assert shown(found) == {
        "what_to_draw": ["2:10.inputs.text"],
        "height": ["2:11.inputs.height"],
    }
    assert chosen(app(with_subgraph([2, "x", None], proxies=proxies), [["2", "height"]])) == {
        "height": ["2:11.inputs.height"]
    }
    assert chosen(app(with_subgraph([2, "x", None], proxies=proxies), [["2", "gone"]])) == {}


def test_a_subgraph_that_is_off_shows_nothing() -> None:
    data = with_subgraph(["a fox", 640], mode=4)
    assert drawn(data) == Drawing()
    assert chosen(app(data, [["2", "text"]])) == {}


def loader(models: Any, name: str = "a.safetensors", **more: Any) -> Json:
    properties = {"models": models, **more}
    return pipeline(
        load=node(1, "Loader", outputs=["MODEL", "CLIP"], values=[name], properties=properties)
    )


SOURCE = {"name": "a.safetensors", "url": "https://x.test/a.safetensors", "directory": "loras"}


def test_sources_of_the_models_in_use_are_read() -> None:
    stale = SOURCE | {"name": "b.safetensors"}
    hashed = SOURCE | {"directory": "vae", "hash": "AB" * 32, "hash_type": "SHA-256"}
    other = SOURCE | {"directory": "x", "hash": "abc", "hash_type": "md5"}
    found = drawn(loader([SOURCE, SOURCE, stale, hashed, other]))
    assert found.models == (
        ModelSource(folder="loras", name="a.safetensors", url=SOURCE["url"]),
        ModelSource(folder="vae", name="a.safetensors", url=SOURCE["url"], sha256="ab" * 32),
        ModelSource(folder="x", name="a.safetensors", url=SOURCE["url"]),
    )


def test_a_model_in_a_folder_of_its_own_keeps_it() -> None:
    found = drawn(loader([SOURCE], "flux\\styles\\a.safetensors"))
    assert [model.folder for model in found.models] == ["loras/flux/styles"]


@pytest.mark.parametrize(
    "models",
    [3, [3], [{}], [SOURCE | {"url": 3}], [SOURCE | {"directory": None}], [SOURCE | {"url": "x"}]],
)
def test_odd_sources_are_left_out(models: Any) -> None:
    assert drawn(loader(models)).models == ()


def test_models_of_a_node_that_does_not_run_are_left_out() -> None:
    data = pipeline(
        more=node(20, "Loader", values=["a.safetensors"], mode=2, properties={"models": [SOURCE]})
    )
    assert drawn(data).models == ()


def packs(*properties: Json) -> tuple[UsedPack, ...]:
    more = {
        str(number): node(number, "Latent", outputs=["LATENT"], values=[1, 2], properties=each)
        for number, each in enumerate(properties, 30)
    }
    return drawn(pipeline(**more)).packs


def test_the_newest_version_of_each_pack_in_use_is_read() -> None:
    found = packs(
        {"cnr_id": "comfy-core", "ver": "0.33.0"},
        {"cnr_id": "comfyui-kjnodes", "ver": "1.9.0"},
        {"cnr_id": "ComfyUI-KJNodes", "ver": "1.10.2"},
        {"cnr_id": "comfyui-kjnodes", "ver": "ab12cd34" * 5},
        {"aux_id": "someone/nodes", "ver": "ab12cd34" * 5},
        {"aux_id": "someone/../nodes/x", "ver": "1"},
        {"cnr_id": 3, "ver": None},
        {"cnr_id": "bare"},
    )
    assert found == (
        UsedPack(id="ComfyUI-KJNodes", repo="", version="1.10.2"),
        UsedPack(id="", repo="someone/nodes", version="ab12cd34" * 5),
        UsedPack(id="bare", repo="", version=""),
    )
