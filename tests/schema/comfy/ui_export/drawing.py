"""UI exports, drawn in code, and the classes they use."""

from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.comfy.ui_export.convert import import_ui
from comfysnap_schema.wire.errors import UiFormatError

Json = dict[str, Any]


def entry(output: list[Any], /, optional: Json | None = None, **required: Any) -> Json:
    return {"input": {"required": required, "optional": optional or {}}, "output": output}


CLASSES: Json = {
    "Loader": entry(["MODEL", "CLIP"], name=[["a.safetensors", "b.safetensors"]]),
    "Encode": entry(
        ["CONDITIONING"],
        text=["STRING", {"multiline": True, "dynamicPrompts": True}],
        clip=["CLIP"],
    ),
    "Sample": entry(
        ["LATENT"],
        {"mask": ["MASK"]},
        model=["MODEL"],
        seed=["INT", {"default": 0}],
        steps=["INT", {"default": 20}],
        positive=["CONDITIONING"],
        latent=["LATENT"],
    ),
    "Latent": entry(["LATENT"], width=["INT", {"default": 512}], height=["INT", {"default": 512}]),
    "Decode": entry(["IMAGE"], samples=["LATENT"]),
    "Load": entry(["IMAGE", "MASK"], image=[["x.png"], {"image_upload": True}]),
    "Scale": entry(["IMAGE"], image=["IMAGE"], by=["FLOAT", {"default": 1.0}]),
    "Swap": entry(["A", "B"], b=["B"], a=["A"]),
    "Any": entry(["*"], first=["*"], second=["*"]),
    "Save": entry([], images=["IMAGE"], prefix=["STRING", {"default": "ComfyUI"}]),
    "Text": entry(["STRING"], value=["STRING", {}]),
    "Old": entry(
        [], count=["INT", {"forceInput": True}], size=["INT"], kind=[["k1", "k2"]], flag=["BOOLEAN"]
    ),
    "Pick": entry(["IMAGE"], names=["COMBO", {"options": ["p", "q"], "multiselect": True}]),
    "Draw": entry([], canvas=["DRAWING"]),
    "Remote": entry([], name=["COMBO", {"remote": {}}], combo_seed=["COMBO", {"options": ["s"]}]),
    "Reload": entry(
        [],
        image=["COMBO", {"image_upload": True, "remote": {"route": "/x", "refresh_button": True}}],
        size=["INT"],
    ),
    "Pack": entry([], size=["INT"]) | {"python_module": "custom_nodes.pack"},
    "ShowText|pysssss": entry([], text=["STRING"]) | {"python_module": "custom_nodes.show"},
    "Resize": entry(
        ["IMAGE"],
        how=[
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {"key": "size", "inputs": {"required": {"w": ["INT"], "h": ["INT"]}}},
                    {"key": "factor", "inputs": {"required": {"by": ["FLOAT"]}}},
                ]
            },
        ],
        crop=["BOOLEAN"],
    ),
    "Tint": entry(
        ["IMAGE"],
        colour=["COLOR", {"default": "#ff0000"}],
        plain=["COLOR"],
        palette=["COLORS"],
        curve=["CURVE"],
        area=["BOUNDING_BOX"],
        boxes=["BOUNDING_BOXES"],
        mask=["STRING", {"widgetType": "PAINTER", "image_upload": True}],
        level=["RANGE"],
        layers=["COMPOSITOR"],
        notes=["MARKDOWN"],
        strength=["FLOAT,INT", {"widgetType": "FLOAT", "default": 1.0}],
    ),
    "Socket": entry(["IMAGE"], {"box": ["BOUNDING_BOX", {"forceInput": True}]}, size=["INT"]),
    "Compare": entry([], view=["IMAGECOMPARE"], size=["INT"]),
    "Photo": entry([], image=["WEBCAM"]),
    "Random": entry(
        [],
        choice=["COMBO", {"options": ["p", "q"], "control_after_generate": True}],
        number=["FLOAT", {"default": 0.5, "control_after_generate": "fixed"}],
        seed=["INT", {"control_after_generate": False}],
        size=["INT"],
    ),
    "Mode": entry(
        ["IMAGE"],
        sampling=[
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {
                        "key": "on",
                        "inputs": {
                            "required": {
                                "seed": ["INT", {"default": 3}],
                                "note": ["STRING", {"dynamicPrompts": True}],
                                "images": [
                                    "COMFY_AUTOGROW_V3",
                                    {
                                        "template": {
                                            "input": {"required": {"image": ["IMAGE", {}]}},
                                            "prefix": "image",
                                            "min": 1,
                                            "max": 4,
                                        }
                                    },
                                ],
                            }
                        },
                    },
                    {"key": "off", "inputs": {"required": {}}},
                ]
            },
        ],
        size=["INT"],
    ),
    "Kept": entry(
        [],
        how=[
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {
                        "key": "a",
                        "inputs": {"required": {"n": ["INT", {"control_after_generate": True}]}},
                    },
                    {"key": "b", "inputs": {"required": {}}},
                ]
            },
        ],
        size=["INT"],
    ),
    "Texts": entry(
        [],
        size=["INT"],
        texts=[
            "COMFY_AUTOGROW_V3",
            {
                "template": {
                    "input": {"required": {"text": ["STRING", {"default": "t"}]}},
                    "names": ["a", "b", "c"],
                    "min": 0,
                }
            },
        ],
    ),
    "Match": entry(
        ["COMFY_MATCHTYPE_V3"],
        any=["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "*"}}],
    ),
    "CustomCombo": entry(["STRING", "INT"], choice=["COMBO", {"options": []}]),
    "SaveGLB": entry([], mesh=["MESH"], filename_prefix=["STRING", {"default": "mesh"}]),
    "Mesh": entry(["MESH"]),
    "SaveImage": entry([], images=["IMAGE"], filename_prefix=["STRING", {"default": "ComfyUI"}]),
}


CATALOGUE = Catalogue.parse(CLASSES)


def slot(name: str, kind: str, link: int | None = None, *, widget: bool = False) -> Json:
    return {"name": name, "type": kind, "link": link} | (
        {"widget": {"name": name}} if widget else {}
    )


def node(
    number: int,
    kind: str,
    inputs: list[Json] | None = None,
    outputs: list[str] | None = None,
    values: Any = None,
    **more: Any,
) -> Json:
    return {
        "id": number,
        "type": kind,
        "inputs": inputs or [],
        "outputs": [{"name": name, "type": name} for name in outputs or []],
        "widgets_values": values,
        **more,
    }


def ui(nodes: list[Json], links: list[list[Any]], *subgraphs: Json) -> Json:
    return {"nodes": nodes, "links": links, "definitions": {"subgraphs": list(subgraphs)}}


def subgraph(
    name: str, nodes: list[Json], links: list[list[Any]], inputs: list[Json], outputs: list[Json]
) -> Json:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": name,
        "name": name,
        "nodes": nodes,
        "links": [dict(zip(keys, link, strict=False)) for link in links],
        "inputs": inputs,
        "outputs": outputs,
    }


def inputs(graph: Graph, name: str) -> Json:
    return dict(graph[name]["inputs"])


def refusals(data: Json) -> list[tuple[str, str]]:
    with pytest.raises(UiFormatError) as caught:
        import_ui(data, CATALOGUE, file="f.json")
    assert caught.value.code == "not_convertible"
    assert caught.value.file == "f.json"
    return [(code, name) for code, name, _ in caught.value.refused]


def pipeline(**changes: Json) -> Json:
    nodes: Json = {
        "load": node(1, "Loader", outputs=["MODEL", "CLIP"], values=["a.safetensors"]),
        "encode": node(
            2, "Encode", [slot("clip", "CLIP", 2)], ["CONDITIONING"], ["a fox"], title="Prompt"
        ),
        "latent": node(3, "Latent", outputs=["LATENT"], values=[640, 480]),
        "sample": node(
            4,
            "Sample",
            [
                slot("model", "MODEL", 1),
                slot("positive", "CONDITIONING", 3),
                slot("latent", "LATENT", 4),
            ],
            ["LATENT"],
            [7, "randomize", 30],
        ),
        "decode": node(5, "Decode", [slot("samples", "LATENT", 5)], ["IMAGE"]),
        "save": node(6, "Save", [slot("images", "IMAGE", 6)], values=["out"]),
        **changes,
    }
    links = [
        [1, 1, 0, 4, 0, "MODEL"],
        [2, 1, 1, 2, 0, "CLIP"],
        [3, 2, 0, 4, 1, "CONDITIONING"],
        [4, 3, 0, 4, 2, "LATENT"],
        [5, 4, 0, 5, 0, "LATENT"],
        [6, 5, 0, 6, 0, "IMAGE"],
    ]
    return ui(list(nodes.values()), links)
