"""Files that go in and come out, and what the catalogue adds to a proposed map."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph, parse_graph
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.wire.files import Kind
from tests.schema.graphs import catalogue, node, paths, text_to_image

MODELS = [
    ("CLIPLoader", "clip_name", "text_encoder"),
    ("CLIPVisionLoader", "clip_name", "clip_vision"),
    ("UpscaleModelLoader", "model_name", "upscale_model"),
    ("SomeLoader", "file", "model_name"),
    ("UNETLoader", "unet_name", "diffusion_model"),
]


@pytest.mark.parametrize(
    ("class_type", "name", "value", "kind", "parameter"),
    [
        ("LoadImage", "image", "x.png", Kind.IMAGE, "image"),
        ("LoadImageMask", "image", "x.png", Kind.MASK, "mask"),
        ("VHS_LoadVideo", "video", "x.mp4", Kind.VIDEO, "video"),
        ("LoadVideo", "file", "x.mp4", Kind.VIDEO, "video"),
        ("LoadAudio", "audio", "x.mp3", Kind.AUDIO, "audio"),
        ("Load3D", "model_file", "x.glb", Kind.FILE, "file"),
    ],
)
def test_input_files_are_recognized_by_their_loaders(
    class_type: str, name: str, value: str, kind: Kind, parameter: str
) -> None:
    graph: Graph = {
        "1": node(class_type, **{name: value}),
        "2": node("SaveImage", images=["1", 0]),
    }
    proposal = propose(graph, name="x")
    assert paths(proposal) == {parameter: f"1.inputs.{name}"}
    assert proposal.inputs[0].spec.kind is kind


@pytest.mark.parametrize("class_type", ["LoadImageFromUrl", "LoadImagesFromFolder"])
def test_names_of_other_places_are_not_input_files(class_type: str) -> None:
    graph: Graph = {"1": node(class_type, image="x"), "2": node("SaveImage", images=["1", 0])}
    assert paths(propose(graph, name="x")) == {}


def test_an_image_of_which_only_the_mask_is_read_is_a_mask() -> None:
    graph: Graph = {"1": node("LoadImage", image="m.png"), "2": node("SaveImage", images=["1", 1])}
    proposal = propose(graph, name="x")
    assert proposal.spec.inputs["mask"].kind is Kind.MASK


def test_several_images_are_named_by_title_or_use() -> None:
    graph: Graph = {
        "1": node("LoadImage", "Reference", image="a.png"),
        "2": node("LoadImage", image="b.png"),
        "3": node("LoadImage", image="c.png"),
        "4": node("LoadImage", "Sky image", image="d.png"),
        "5": node("Mix", start_image=["1", 0], end_image=["2", 0], image=["3", 0], pixels=["4", 0]),
        "6": node("SaveImage", images=["5", 0]),
    }
    assert paths(propose(graph, name="x")) == {
        "reference_image": "1.inputs.image",
        "end_image": "2.inputs.image",
        "image": "3.inputs.image",
        "sky_image": "4.inputs.image",
    }


@pytest.mark.parametrize(("class_type", "name", "parameter"), MODELS)
def test_model_files_are_proposed_as_choices_and_disabled(
    class_type: str, name: str, parameter: str
) -> None:
    graph: Graph = {
        "1": node(class_type, **{name: "m.safetensors"}),
        "2": node("SaveImage", images=["1", 0]),
    }
    proposal = propose(graph, name="x")
    assert paths(proposal, enabled=False) == {parameter: f"1.inputs.{name}"}
    assert proposal.inputs[0].spec.choices == ["m.safetensors"]


def test_the_catalogue_provides_types_choices_files_and_outputs() -> None:
    known = catalogue(
        Load={
            "inputs": {
                "picture": [["x.png"], {"image_upload": True}],
                "name": [["m.safetensors"]],
                "other": [["n.safetensors"]],
            },
            "output": ["IMAGE", "MODEL_PATCH"],
        },
        Patch={"inputs": {"name": [["m.safetensors"]]}, "output": ["MODEL_PATCH"]},
        Speak={
            "inputs": {
                "script": ["STRING", {"multiline": True}],
                "short": ["STRING", {}],
                "cfg": ["FLOAT", {}],
                "text": [["fixed"]],
            },
            "output": ["AUDIO"],
        },
        Keep={"inputs": {"audio": ["AUDIO"]}, "output": []},
        SaveImage={"inputs": {"images": ["IMAGE"], "extra": ["*"]}, "output": []},
    )
    graph: Graph = {
        "1": node("Load", picture="a.png", name="m.safetensors", other="absent.safetensors"),
        "2": node("Patch", name="m.safetensors"),
        "3": node("Speak", script="Once", short="x", cfg=3, text="fixed"),
        "4": node("Keep", "Keeper", audio=["3", 0]),
        "5": node("SaveImage", images=["1", 0], extra=["2", 0], more=["6", 0]),
        "6": node("NotThere", scheduler="normal"),
    }
    proposal = propose(graph, known, name="x")
    entries = {entry.name: entry for entry in proposal.inputs}
    assert entries["image"].spec.kind is Kind.IMAGE
    assert entries["cfg"].spec.type is None
    assert entries["script"].enabled is False
    assert entries["scheduler"].enabled
    assert entries["model_patch"].spec.choices is None
    assert "short" not in entries
    assert "text" not in entries
    definition = entries["image"].definition
    assert definition is not None
    assert definition.upload is Kind.IMAGE
    assert list(proposal.spec.outputs) == ["images"]
    assert len(proposal.notes) == 2


def test_the_catalogue_distinguishes_sides_of_outputs_and_settings_from_texts() -> None:
    pair = {"positive": ["CONDITIONING"], "negative": ["CONDITIONING"], "tracks": ["STRING"]}
    entries: dict[str, Any] = {
        "Guide": {
            "input": {"required": {"model": ["MODEL"], "cond1": ["CONDITIONING"]}},
            "output": ["GUIDER"],
        },
        "Pair": {
            "input": {"required": pair},
            "output": ["LATENT", "CONDITIONING", "CONDITIONING"],
            "output_name": ["latent", "positive", "negative"],
        },
        "Encode": {
            "input": {"required": {"text": ["STRING"], "tags": [["a", "b"]]}},
            "output": ["CONDITIONING"],
        },
        "Text": {"input": {"required": {"value": ["STRING"]}}, "output": ["STRING"]},
        "Sample": {
            "input": {"required": {"guider": ["GUIDER"]}},
            "output": [],
            "output_node": True,
        },
    }
    graph: Graph = {
        "1": node("Sample", guider=["2", 0]),
        "2": node("Guide", model=["9", 0], cond1=["3", 1], cond2=["3", 2], cond3=["3", 0]),
        "3": node("Pair", positive=["4", 0], negative=["5", 0], tracks=["6", 0]),
        "4": node("Encode", text="fox", tags="a"),
        "5": node("Encode", text="blurry", tags="b"),
        "6": node("Text", value="[1, 2]"),
    }
    proposal = propose(graph, Catalogue.parse(entries), name="x")
    assert paths(proposal) == {"prompt": "4.inputs.text", "negative_prompt": "5.inputs.text"}


def test_a_loader_of_masks_is_one_with_a_catalogue_too() -> None:
    known = catalogue(
        LoadImageMask={
            "inputs": {"image": [["x.png"], {"image_upload": True}]},
            "output": ["MASK"],
        },
        MaskPreview={"inputs": {"mask": ["MASK"]}, "output": []},
    )
    graph: Graph = {
        "1": node("LoadImageMask", image="m.png"),
        "2": node("MaskPreview", mask=["1", 0]),
    }
    assert propose(graph, known, name="x").inputs[0].spec.kind is Kind.MASK


def test_more_of_the_same_are_counted() -> None:
    graph: Graph = {str(number): node("SaveImage") for number in range(4)}
    names = list(propose(graph, name="x").spec.outputs)
    assert names == ["images", "images_2", "images_3", "images_4"]


@pytest.mark.parametrize(
    ("class_type", "kind", "name"),
    [
        ("SaveImage", Kind.IMAGE, "images"),
        ("Image Save", Kind.IMAGE, "images"),
        ("PreviewImage", Kind.IMAGE, "images"),
        ("MyPreviewImage", Kind.IMAGE, "images"),
        ("SaveAnimatedWEBP", Kind.ANIMATION, "animation"),
        ("SaveGifFile", Kind.ANIMATION, "animation"),
        ("SaveVideo", Kind.VIDEO, "video"),
        ("VHS_VideoCombine", Kind.VIDEO, "video"),
        ("SaveAudioMP3", Kind.AUDIO, "audio"),
        ("SaveAudioTensor", Kind.AUDIO, "audio"),
        ("SaveGLB", Kind.MODEL_3D, "model"),
        ("ExportMesh", Kind.MODEL_3D, "model"),
        ("PreviewAny", Kind.TEXT, "text"),
        ("ShowText|pysssss", Kind.TEXT, "text"),
        ("SaveSVGNode", Kind.FILE, "svg"),
    ],
)
def test_outputs_are_recognized_by_the_class_that_saves_them(
    class_type: str, kind: Kind, name: str
) -> None:
    graph: Graph = {"1": node(class_type)}
    outputs = propose(graph, name="x").spec.outputs
    assert {key: entry.kind for key, entry in outputs.items()} == {name: kind}


@pytest.mark.parametrize(
    ("form", "name", "kind", "many"),
    [
        ("image/gif", "animation", Kind.ANIMATION, False),
        ("image/webp", "animation", Kind.ANIMATION, False),
        ("video/ffmpeg-gif", "animation", Kind.ANIMATION, False),
        ("video/gifski", "animation", Kind.ANIMATION, False),
        ("video/16bit-png", "images", Kind.IMAGE, True),
        ("video/8bit-png", "images", Kind.IMAGE, True),
        ("video/h264-mp4", "video", Kind.VIDEO, False),
        ("video/ProRes", "video", Kind.VIDEO, False),
    ],
)
def test_a_video_combiner_makes_what_its_format_says(
    form: str, name: str, kind: Kind, many: bool
) -> None:
    graph: Graph = {"1": node("VHS_VideoCombine", format=form, save_metadata=True)}
    output = propose(graph, name="x").spec.outputs[name]
    assert (output.kind, output.many) == (kind, many)


def test_previews_are_enabled_only_when_nothing_is_saved() -> None:
    graph = text_to_image(**{"20": node("PreviewImage", images=["8", 0])})
    outputs = {
        entry.name: (entry.spec.node, entry.enabled) for entry in propose(graph, name="x").outputs
    }
    assert outputs == {"images": ("9", True), "images_2": ("20", False)}
    alone: Graph = {"1": node("PreviewImage")}
    assert propose(alone, name="x").outputs[0].enabled


def test_outputs_of_a_kind_are_distinguished_by_title_or_file_name() -> None:
    graph: Graph = {
        "1": node("SaveImage"),
        "2": node("SaveImage", "Upscaled result", filename_prefix="ComfyUI"),
        "3": node("SaveImage", filename_prefix="video/ComfyUI_draft"),
        "4": node("SaveImage", filename_prefix="ComfyUI_45"),
    }
    assert list(propose(graph, name="x").spec.outputs) == [
        "images",
        "upscaled_result",
        "draft",
        "images_45",
    ]


def test_a_graph_without_output_is_noted_and_still_has_inputs() -> None:
    graph: Graph = {"1": node("EmptyLatentImage", width=8, height=8), "2": node("CheckpointSave")}
    proposal = propose(graph, name="x")
    assert proposal.outputs == ()
    assert "width" in paths(proposal)
    assert len(proposal.notes) == 1


@pytest.mark.shared
@pytest.mark.parametrize("with_catalogue", [True, False])
def test_real_exports_get_a_prompt_a_seed_and_an_output(
    shared: Path, *, with_catalogue: bool
) -> None:
    known = Catalogue.read(shared / "object_info.json") if with_catalogue else None
    files = sorted((shared / "workflows").glob("*.json"))
    assert files
    for file in files:
        proposal = propose(parse_graph(json.loads(file.read_text())), known, name="x")
        assert {"prompt", "seed", "steps"} <= set(paths(proposal)), file.name
        assert proposal.spec.outputs, file.name
        assert not any(name[-1].isdigit() for name in proposal.spec.inputs if name != "seed_2")
