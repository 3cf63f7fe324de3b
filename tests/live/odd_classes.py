"""Node classes as node packs write them: encodings that ComfyUI's own classes do not use.

Runs inside ComfyUI, in ``validate_prompts.py``.
"""

import importlib
from typing import Any

COLORS = ["red", "green"]


def v1(returns: Any, output_node: bool = False, /, **groups: dict[str, Any]) -> type:
    """A class in the older style."""

    def declared(_: type) -> dict[str, Any]:
        return groups

    def run(self: object, **_: object) -> tuple[object, ...]:
        return ()

    body: dict[str, Any] = {
        "INPUT_TYPES": classmethod(declared),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "CATEGORY": "odd",
        "OUTPUT_NODE": output_node,
        "run": run,
    }
    return type("Odd", (), body)


def odd_classes() -> dict[str, type]:
    """Classes by name."""
    return {
        "OddOutputs": v1((COLORS, "COMBO", "IMAGE, MASK", "LATENT,*", "FLOAT", "Image")),
        "OddChoices": v1(
            ("COMBO",),
            required={
                "color": (COLORS,),
                "other": (["blue"], {"default": "blue"}),
                "count": ([1, 2, 4],),
                "on": ([True, False],),
                "mode": ("COMBO", {"options": ["fast", "slow"]}),
                "pair": (("a", "b"),),
            },
            optional={
                "tags": ("COMBO", {"options": ["x", "y"], "multiselect": True}),
                "none": ([],),
                "bare": ("COMBO",),
                "listed": (["x", "y"], {"multiselect": True}),
            },
        ),
        "OddUpload": v1(
            ("IMAGE",),
            required={"image": (["picture.png"], {"image_upload": True})},
            optional={"mode": ("COMBO", {"options": ["one", "two"]})},
        ),
        "OddNumbers": v1(
            ("INT", "FLOAT"),
            required={
                "low": ("INT", {"min": 1}),
                "high": ("FLOAT", {"max": 2}),
                "words": ("STRING", {"min": 3}),
                "flag": ("BOOLEAN", {"min": 1}),
                "endless": ("FLOAT", {"min": float("-inf"), "max": float("inf")}),
                "either": ("INT,FLOAT", {"min": 0, "max": 5, "widgetType": "INT"}),
                "any": ("*", {"min": 0}),
            },
        ),
        "OddSave": v1(
            (),
            True,
            required={"images": ("IMAGE,MASK", {"forceInput": True}), "text": ("STRING", {})},
            optional={"image": ("Image",), "latent": ("LATENT",), "bare": ("LATENT, *",)},
        ),
        **v3_classes(),
    }


def v3_classes() -> dict[str, type]:
    """Classes in the newer style."""
    io: Any = importlib.import_module("comfy_api.latest._io")
    grow = io.Autogrow
    option = io.DynamicCombo.Option

    def image(**options: object) -> Any:
        return io.Image.Input("image", **options)

    nested = io.DynamicCombo.Input(
        "inner",
        options=[
            option("deep", [io.Int.Input("depth", min=1, max=9)]),
            option("flat", []),
        ],
    )
    most = io.DynamicCombo.Input(
        "how",
        optional=True,
        options=[
            option("nested", [nested, io.Float.Input("scale", optional=True, max=4.0)]),
            option(
                "grown",
                [grow.Input("images", grow.TemplatePrefix(image(), "image", min=1, max=3))],
            ),
            option("plain", [io.String.Input("text")]),
        ],
    )
    schemas = {
        "OddDynamic": [most],
        "OddGrown": [
            grow.Input("maybe", grow.TemplatePrefix(image(), "m", min=1, max=3), optional=True),
            grow.Input("free", grow.TemplateNames(image(optional=True), ["a", "b"], min=1)),
            grow.Input("many", grow.TemplatePrefix(io.Float.Input("v", max=3), "v", min=0, max=9)),
        ],
        "OddSlot": [
            io.DynamicSlot.Input(io.Mask.Input("mask"), [io.Int.Input("feather", max=8)]),
            io.Combo.Input("fetched", options=[], remote=io.RemoteOptions("/x", True)),
            io.MultiType.Input("both", [io.Float, io.Int]),
        ],
    }  # fmt: skip
    return {name: v3(io, name, inputs) for name, inputs in schemas.items()}


def v3(io: Any, name: str, inputs: list[Any]) -> type:
    """A class in the newer style."""

    def schema(_: type) -> Any:
        return io.Schema(
            node_id=name, category="odd", is_output_node=True, inputs=inputs,
            outputs=[io.Image.Output()],
        )  # fmt: skip

    def execute(_: type, **__: object) -> Any:
        return io.NodeOutput()

    body: dict[str, Any] = {"define_schema": classmethod(schema), "execute": classmethod(execute)}
    return type(name, (io.ComfyNode,), body)
