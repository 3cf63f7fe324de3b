"""What the page reads from GLB files, under Node.js: sound, unusual and hostile ones."""

import base64
import json
import random
import re
import struct
from importlib.resources import files
from typing import Any

import pytest

from tests.server.gateway.page.conftest import RunModule
from tests.server.gateway.page.glb_files import container, picture, triangle, triangle_file

SAMPLE = (files("comfysnap_server.engine.simulated") / "sample.glb").read_bytes()
DAMAGED = {"refused": "the file is damaged"}


def read(run_module: RunModule, *contents: bytes) -> list[dict[str, Any]]:
    return run_module("glb_scenes.js", [base64.b64encode(content).decode() for content in contents])


def test_what_the_simulated_engine_saves_is_read(run_module: RunModule) -> None:
    (scene,) = read(run_module, SAMPLE)
    assert (scene["vertices"], scene["triangles"]) == (24, 12)
    assert (scene["min"], scene["max"]) == ([-0.5] * 3, [0.5] * 3)
    (item,) = scene["items"]
    assert len(item["normals"]) == 72
    assert (len(item["uvs"]), len(item["indices"])) == (48, 36)
    assert scene["images"] == [["image/png", 1969]]


def test_attributes_indices_and_colours_are_read(run_module: RunModule) -> None:
    every = {"POSITION": 0, "COLOR_0": 2}
    plain, colored, glass = read(
        run_module,
        triangle_file(),
        triangle_file({"meshes.0.primitives": [{"attributes": every, "indices": 3}]}),
        triangle_file({
            "materials": [{
                "alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 0.5]},
                "extensions": {"KHR_materials_unlit": {}},
            }],
            "extensionsRequired": ["KHR_materials_unlit"],
            "meshes.0.primitives.0.material": 0,
        }),
    )  # fmt: skip
    assert plain["items"][0]["positions"] == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert (plain["items"][0]["indices"], plain["items"][0]["normals"]) == (None, None)
    assert plain["items"][0]["material"]["color"] == [1, 1, 1, 1]
    assert colored["items"][0]["colors"] == [1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1]
    assert colored["items"][0]["indices"] == [0, 1, 2]
    material = glass["items"][0]["material"]
    assert (material["color"], material["isBlended"]) == ([1, 0, 0, 0.5], True)
    assert material["isUnlit"]


@pytest.mark.parametrize(("kind", "form"), [(5121, "<3B"), (5123, "<3H"), (5125, "<3I")])
def test_indices_of_each_size_are_read(run_module: RunModule, kind: int, form: str) -> None:
    said, binary = triangle()
    packed = struct.pack(form, 2, 1, 0)
    said["bufferViews"][3] = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(packed)}
    said["accessors"][3]["componentType"] = kind
    said["meshes"][0]["primitives"][0]["indices"] = 3
    (scene,) = read(run_module, container(json.dumps(said).encode(), binary + packed))
    assert scene["items"][0]["indices"] == [2, 1, 0]


def test_interleaved_and_quantised_positions_are_read(run_module: RunModule) -> None:
    said, _ = triangle()
    binary = b"".join(
        struct.pack("<3hxx", *point) for point in [(0, 0, 0), (32767, 0, 0), (0, -32767, 0)]
    )
    said["bufferViews"][0] = {"buffer": 0, "byteLength": 24, "byteStride": 8}
    said["accessors"][0] |= {"componentType": 5122, "normalized": True}
    said["extensionsRequired"] = ["KHR_mesh_quantization"]
    (scene,) = read(run_module, container(json.dumps(said).encode(), binary))
    assert scene["items"][0]["positions"] == [0, 0, 0, 1, 0, 0, 0, -1, 0]


def test_nodes_place_what_is_below_them(run_module: RunModule) -> None:
    half = 0.5**0.5
    turned = {"rotation": [0, 0, half, half], "scale": [2, 2, 2], "children": [1]}
    matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 10, 0, 0, 1]
    nodes = [turned, {"matrix": matrix, "children": [2]}, {"translation": [0, 0, 5], "mesh": 0}]
    placed, twice, orphan = read(
        run_module,
        triangle_file({"nodes": nodes}),
        triangle_file({"nodes": [{"mesh": 0}, {"mesh": 0}], "scenes.0.nodes": [0, 1]}),
        triangle_file({"nodes": nodes, "scenes": [{"nodes": [2]}]}),
    )
    assert placed["min"] == pytest.approx([-2, 20, 10], abs=1e-9)
    assert placed["max"] == pytest.approx([0, 22, 10], abs=1e-9)
    assert (twice["vertices"], twice["triangles"]) == (6, 2)
    assert (orphan["min"], orphan["max"]) == ([0, 0, 5], [1, 1, 5])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_textures_inside_the_file_are_read(run_module: RunModule, form: str) -> None:
    image = picture(form, "red")
    changes: dict[str, Any] = {"samplers": [{"wrapS": 33071}], "textures.0.sampler": 0}
    if form == "webp":
        changes["extensionsRequired"] = ["EXT_texture_webp"]
        changes["textures.0"] = {"extensions": {"EXT_texture_webp": {"source": 0}}, "sampler": 0}
    (scene,) = read(run_module, triangle_file(changes, image, mime=f"image/{form}"))
    assert scene["images"] == [[f"image/{form}", len(image)]]
    assert scene["items"][0]["uvs"] == [0, 0, 1, 0, 0, 1]
    texture = scene["items"][0]["material"]["texture"]
    assert texture == {"image": 0, "set": 0, "wrap": [33071, 10497]}


def test_a_texture_in_another_file_is_left_out(run_module: RunModule) -> None:
    changes = {"images": [{"uri": "http://127.0.0.1:9/a.png"}]}
    (scene,) = read(run_module, triangle_file(changes, picture("png", "red")))
    assert (scene["images"], scene["items"][0]["material"]["texture"]) == ([], None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "it is compressed with Draco"),
    ({"extensionsRequired": ["EXT_meshopt_compression"]}, "it is compressed with meshopt"),
    ({"extensionsRequired": ["KHR_texture_basisu"]}, "its textures are KTX2"),
    ({"extensionsRequired": ["VND_own"]}, "it needs the glTF extension VND_own"),
    ({"accessors.0.sparse": {"count": 1}}, "it has sparse accessors"),
    ({"buffers.0.uri": "a.bin"}, "a part of it is in another file"),
    ({"nodes": [{}]}, "it has no meshes"),
    ({"meshes.0.primitives": []}, "it has no meshes"),
    ({"nodes": [{"mesh": 0}] * 10_001, "scenes": None}, "it is too large"),
]


@pytest.mark.parametrize(("changes", "why"), REFUSED)
def test_what_is_not_shown_says_why(
    run_module: RunModule, changes: dict[str, Any], why: str
) -> None:
    assert read(run_module, triangle_file(changes)) == [{"refused": why}]


def test_files_that_are_not_glb_say_so(run_module: RunModule) -> None:
    files = (b"", b"solid cube", b"glTF", struct.pack("<4sIIII", b"glTF", 1, 20, 0, 0))
    reasons = [one["refused"] for one in read(run_module, *files)]
    assert reasons == ["it is not a GLB file"] * 3 + ["it is glTF 1, not 2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"accessors.0.count": 4}, {"accessors.0.count": 2**31}, {"accessors.0.count": -1},
        {"accessors.0.count": 0}, {"accessors.0.count": 1e308}, {"accessors.0.count": "3"},
        {"accessors.0.byteOffset": 4}, {"accessors.0.byteOffset": -4},
        {"accessors.0.type": "VEC2"}, {"accessors.0.type": "toString"},
        {"accessors.0.componentType": 5124}, {"accessors.0.componentType": "constructor"},
        {"accessors.0.bufferView": 99}, {"accessors.0.bufferView": "length"},
        {"accessors.0.bufferView": None}, {"accessors": {"0": 7}}, {"accessors": None},
        {"bufferViews.0.byteLength": 2**32}, {"bufferViews.0.byteOffset": 2**31},
        {"bufferViews.0.byteStride": 1}, {"bufferViews.0.byteStride": 2**31},
        {"meshes.0.primitives": "abc"},
        {"meshes.0.primitives.0.mode": 7}, {"meshes.0.primitives.0.attributes": {}},
        {"meshes.0.primitives.0.material": 0}, {"meshes.0.primitives.0.attributes.NORMAL": 3},
        {"meshes.0.primitives.0.indices": 0},
        {"meshes.0.primitives.0.indices": 3, "accessors.3.componentType": 5126},
        {"nodes": [{"mesh": 0, "children": [0]}]}, {"nodes": [{"children": [0] * 9}]},
        {"nodes": [{"mesh": 0, "matrix": [1]}]}, {"nodes": [{"mesh": 0, "scale": [1e308] * 2}]},
        {"nodes": [{"mesh": 0, "translation": [1.7e308] * 3, "scale": [1.7e308] * 3}]},
        {"nodes": [{"mesh": 0, "translation": ["a", 0, 0]}]}, {"nodes": [None]}, {"scene": 4},
        {"scenes.0.nodes": [0, 0]}, {"extensionsRequired": 7},
    ],
)  # fmt: skip
def test_files_that_lie_are_refused(run_module: RunModule, changes: dict[str, Any]) -> None:
    assert read(run_module, triangle_file(changes)) == [DAMAGED]


def test_an_index_beyond_the_vertices_is_refused(run_module: RunModule) -> None:
    said, binary = triangle()
    said["meshes"][0]["primitives"][0]["indices"] = 3
    lying = binary.replace(struct.pack("<3H", 0, 1, 2), struct.pack("<3H", 0, 1, 3))
    assert read(run_module, container(json.dumps(said).encode(), lying)) == [DAMAGED]


def test_positions_that_are_not_finite_are_refused(run_module: RunModule) -> None:
    said, binary = triangle()
    for value in (float("nan"), float("inf")):
        lying = struct.pack("<f", value) + binary[4:]
        assert read(run_module, container(json.dumps(said).encode(), lying)) == [DAMAGED]


def test_a_file_that_is_cut_anywhere_is_refused(run_module: RunModule) -> None:
    content = triangle_file({}, picture("png", "red"))
    found = read(run_module, *(content[:length] for length in range(len(content))))
    assert {one["refused"] for one in found} == {"it is not a GLB file", "the file is cut off"}


def test_changed_files_are_read_or_refused_and_nothing_else(run_module: RunModule) -> None:
    rand = random.Random(7)
    content = triangle_file({}, picture("png", "red"))
    changed = [any_change(content, rand) for _ in range(2000)]
    found = read(run_module, *changed)  # another exception ends the program
    assert len(found) == 2000
    assert 200 < sum("refused" in one for one in found) < 2000


def any_change(content: bytes, rand: random.Random) -> bytes:
    if rand.random() < 0.3:
        at = rand.randrange(len(content))
        return content[:at] + bytes([rand.randrange(256)]) + content[at + 1 :]
    end = 20 + struct.unpack("<I", content[12:16])[0]
    text = content[20:end].decode()
    found = rand.choice(list(re.finditer(r'-?\d+(?:\.\d+)?|"[^"]*"(?!:)|\[[^][]*\]', text)))
    other = rand.choice(["-1", "0", "1e300", "4294967295", "2.5", "null", "[]", "{}", '"POSITION"'])
    return container(
        (text[: found.start()] + other + text[found.end() :]).encode(), content[end + 8 :]
    )
