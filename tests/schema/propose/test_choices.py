"""What a person would choose: of several samplers, seeds and previews, and within which ranges."""

from typing import Any

import pytest

from comfysnap_schema.comfy import Drawing, InputPath, ShownWidget
from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.propose.folder import map_text
from comfysnap_schema.propose.proposal import propose
from tests.schema.graphs import catalogue, node, paths, text_to_image


def widget(name: str, *places: str) -> ShownWidget:
    return ShownWidget(name=name, paths=tuple(InputPath.parse(place) for place in places))


def outputs(graph: Graph, drawing: Drawing | None = None) -> dict[str, str]:
    proposal = propose(graph, name="x", drawing=drawing)
    return {entry.name: entry.spec.node for entry in proposal.outputs if entry.enabled}


def sampler(seed: int, latent: str, **more: Any) -> Any:
    settings = {"steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    return node("KSampler", seed=seed, latent_image=[latent, 0], **{**settings, **links, **more})


def preprocessed(latent: str) -> Graph:
    """A sampler makes the control image of another."""
    return text_to_image(
        **{
            "3": sampler(1, latent, positive=["30", 0], steps=30, denoise=1),
            "30": node("ControlNetApply", conditioning=["6", 0], control_net=["31", 0],
                       image=["32", 0], strength=0.8),
            "31": node("ControlNetLoader", control_net_name="c.safetensors"),
            "32": node("VAEDecode", samples=["33", 0], vae=["4", 2]),
            "33": sampler(2, "5", steps=1, positive=["34", 0]),
            "34": node("CLIPTextEncode", text="depth", clip=["4", 1]),
            "35": node("VAEEncode", pixels=["32", 0], vae=["4", 2]),
        }
    )  # fmt: skip


@pytest.mark.parametrize("latent", ["5", "35"])
def test_the_sampler_that_makes_the_output_has_the_plain_names(latent: str) -> None:
    """Also where the size of its latent comes from the control image."""
    proposal = propose(preprocessed(latent), name="x")
    found, off = paths(proposal), paths(proposal, enabled=False)
    assert found["steps"] == "3.inputs.steps"
    assert found["prompt"] == "6.inputs.text"
    assert off["steps_2"] == "33.inputs.steps"
    assert found["seed"] == ["33.inputs.seed", "3.inputs.seed"]


def test_samplers_in_a_chain_have_one_seed_and_in_branches_one_each() -> None:
    graph = text_to_image(
        **{
            "13": sampler(2, "3", denoise=0.5),
            "8": node("VAEDecode", samples=["13", 0], vae=["4", 2]),
            "9": node("SaveImage", "Save day", images=["8", 0]),
            "23": sampler(3, "5"),
            "28": node("VAEDecode", samples=["23", 0], vae=["4", 2]),
            "29": node("SaveImage", "Save night", images=["28", 0]),
        }
    )
    found = paths(propose(graph, name="x"))
    assert found["day_seed"] == ["3.inputs.seed", "13.inputs.seed"]
    assert found["night_seed"] == "23.inputs.seed"
    graph["23"]["inputs"]["seed"] = 2
    found = paths(propose(graph, name="x"))
    assert found["seed"] == ["3.inputs.seed", "13.inputs.seed", "23.inputs.seed"]


def test_noise_of_its_own_nodes_is_one_seed_for_the_chain_of_their_samplers() -> None:
    graph: Graph = {
        "1": node("RandomNoise", noise_seed=1),
        "2": node("SamplerCustomAdvanced", noise=["1", 0], latent_image=["9", 0]),
        "3": node("RandomNoise", noise_seed=2),
        "4": node("SamplerCustomAdvanced", noise=["3", 0], latent_image=["2", 0]),
        "5": node("SaveImage", images=["4", 0]),
        "9": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }
    found = paths(propose(graph, name="x"))
    assert found["seed"] == ["1.inputs.noise_seed", "3.inputs.noise_seed"]


@pytest.mark.parametrize("name", ["Seed", "SEED", "rand_seed", "model.seed", "seed_num"])
def test_seeds_are_found_by_any_usual_name(name: str) -> None:
    graph: Graph = {"1": node("Paint", **{name: 1}), "2": node("SaveImage", images=["1", 0])}
    assert paths(propose(graph, name="x")) == {"seed": f"1.inputs.{name}"}


@pytest.mark.parametrize(
    ("class_type", "largest"),
    [
        ("KSampler", 2**32 - 1),
        ("SomeUpscaler", 2**32 - 1),
        ("KlingVideoNode", 2**31 - 1),
        ("Rodin3D_Gen2", 2**16 - 1),
    ],
)
def test_without_a_catalogue_a_seed_is_one_that_the_class_takes(
    class_type: str, largest: int
) -> None:
    graph: Graph = {"1": node(class_type, seed=2**60), "2": node("SaveImage", images=["1", 0])}
    assert propose(graph, name="x").spec.inputs["seed"].maximum == largest


def test_a_seed_keeps_the_range_of_its_definition_and_of_what_it_is_linked_to() -> None:
    known = catalogue(
        Paint={"inputs": {"seed": ["INT", {"min": 0, "max": 2**64 - 1}]}, "output": ["IMAGE"]},
        PrimitiveInt={"inputs": {"value": ["INT", {"min": -99, "max": 2**63}]}, "output": ["INT"]},
        SaveImage={"inputs": {"images": ["IMAGE"]}, "output": []},
    )
    graph: Graph = {"1": node("Paint", seed=5), "2": node("SaveImage", images=["1", 0])}
    spec = propose(graph, known, name="x").spec.inputs["seed"]
    assert (spec.minimum, spec.maximum) == (None, None)
    graph["1"]["inputs"]["seed"] = ["3", 0]
    graph["3"] = node("PrimitiveInt", value=5)
    spec = propose(graph, known, name="x").spec.inputs["seed"]
    assert (spec.minimum, spec.maximum) == (0, None)


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [
        ("steps", 20, 1, 150),
        ("steps", 400, 1, 400),
        ("width", 8, 8, 4096),
        ("batch_size", 1, 1, 8),
        ("fps", 24.0, 1, 120),
        ("cfg", 7.5, None, None),
    ],
)
def test_ranges_are_such_as_a_public_service_can_take(
    name: str, value: float, low: float | None, high: float | None
) -> None:
    more = {"height": 64} | {"width": 64} | {name: value}
    graph: Graph = {
        "1": node("EmptyLatentImage", **more),
        "2": node("SaveImage", images=["1", 0]),
    }
    spec = propose(graph, name="x").spec.inputs[name]
    assert (spec.minimum, spec.maximum) == (low, high)


def test_a_number_with_choices_gets_no_range() -> None:
    known = catalogue(
        Film={"inputs": {"duration": [[5, 10], {}]}, "output": ["VIDEO"]},
        SaveVideo={"inputs": {"video": ["VIDEO"]}, "output": []},
    )
    graph: Graph = {"1": node("Film", duration=5), "2": node("SaveVideo", video=["1", 0])}
    assert propose(graph, known, name="x").spec.inputs["duration"].maximum is None


def test_an_integer_and_a_number_that_agree_are_one_integer() -> None:
    graph: Graph = {
        "1": node("CreateVideo", images=["2", 0], fps=24.0),
        "2": node("Animate", frame_rate=24),
        "3": node("SaveVideo", video=["1", 0]),
    }
    spec = propose(graph, name="x").spec.inputs["fps"]
    assert spec.path == ["2.inputs.frame_rate", "1.inputs.fps"]
    assert (type(spec.default), spec.default) == (int, 24)


def test_both_texts_of_a_loader_are_told_apart() -> None:
    graph: Graph = {
        "1": node("Efficient Loader", positive="a barn", negative="blurry", empty_latent_width=512,
                  empty_latent_height=768, batch_size=1),
        "2": node("KSampler", model=["1", 0], positive=["1", 1], negative=["1", 2], cfg=7.0),
        "3": node("SaveImage", images=["2", 5]),
    }  # fmt: skip
    assert paths(propose(graph, name="x")) == {
        "prompt": "1.inputs.positive",
        "negative_prompt": "1.inputs.negative",
        "width": "1.inputs.empty_latent_width",
        "height": "1.inputs.empty_latent_height",
        "batch_size": "1.inputs.batch_size",
        "cfg": "2.inputs.cfg",
    }


OFFERED = [
    ("ImagePadForOutpaint", {"left": 8, "top": 0, "right": 8, "bottom": 0, "feathering": 40}),
    ("Canny", {"low_threshold": 0.4, "high_threshold": 0.8}),
    ("ImageScaleToTotalPixels", {"megapixels": 1.0}),
    ("AudioAdjustVolume", {"volume": 1}),
]


@pytest.mark.parametrize(("class_type", "values"), OFFERED)
def test_what_changes_the_result_is_offered(class_type: str, values: dict[str, Any]) -> None:
    graph: Graph = {
        "1": node(class_type, image=["2", 0], **values),
        "2": node("LoadImage", image="a.png"),
        "3": node("SaveImage", images=["1", 0]),
    }
    assert values.keys() <= paths(propose(graph, name="x")).keys()


def test_the_strength_of_a_style_is_offered_and_sides_of_a_mask_are_not() -> None:
    graph = text_to_image(
        **{
            "3": sampler(1, "5", positive=["20", 0]),
            "20": node("StyleModelApply", conditioning=["6", 0], style_model=["21", 0],
                       strength=0.5, clip_vision_output=["22", 0]),
            "22": node("FeatherMask", left=1, top=1, right=1, bottom=1),
        }
    )  # fmt: skip
    found = paths(propose(graph, name="x"))
    assert found["style_strength"] == "20.inputs.strength"
    assert "left" not in found


def test_a_scale_is_offered_where_it_changes_the_result() -> None:
    graph = text_to_image(
        **{
            "9": node("SaveImage", images=["20", 0]),
            "20": node("ImageScaleBy", image=["8", 0], scale_by=2.0),
            "7": node("CLIPTextEncode", text="x", reference=["21", 0]),
            "21": node("ImageScaleBy", image=["22", 0], scale_by=0.5),
            "22": node("LoadImage", image="a.png"),
        }
    )
    proposal = propose(graph, name="x")
    assert paths(proposal)["scale"] == "20.inputs.scale_by"
    assert "21.inputs.scale_by" in paths(proposal, enabled=False).values()


def test_the_strength_of_a_style_lora_is_offered_and_that_of_a_fast_one_is_not() -> None:
    graph = text_to_image(
        **{
            "3": sampler(1, "5", model=["20", 0]),
            "20": node("LoraLoaderModelOnly", model=["21", 0], lora_name="pixel.safetensors",
                       strength_model=1),
            "21": node("LoraLoaderModelOnly", model=["4", 0], strength_model=1,
                       lora_name="x-lightning-4steps.safetensors"),
        }
    )  # fmt: skip
    proposal = propose(graph, name="x")
    assert paths(proposal)["lora_strength"] == "20.inputs.strength_model"
    assert paths(proposal, enabled=False)["lora_strength_2"] == "21.inputs.strength_model"


def test_a_view_from_the_front_is_named_by_what_its_encoder_is_for() -> None:
    graph: Graph = {
        "1": node("LoadImage", image="f.png"),
        "2": node("CLIPVisionEncode", image=["1", 0]),
        "3": node("Model3D", front=["2", 0], back=["5", 0]),
        "4": node("SaveGLB", mesh=["3", 0]),
        "5": node("LoadImage", image="b.png"),
    }
    found = paths(propose(graph, name="x"))
    assert found == {"front_image": "1.inputs.image", "back_image": "5.inputs.image"}


def test_outputs_of_a_kind_are_named_by_what_makes_them_and_so_are_their_prompts() -> None:
    graph: Graph = {
        "1": node("Paint", "Left 45", prompt="left", seed=1),
        "2": node("Paint", "Close up", prompt="close", seed=2),
        "3": node("SaveImage", images=["1", 0]),
        "4": node("SaveImage", images=["2", 0]),
        "5": node("SaveImage", filename_prefix="90_degrees", images=["6", 0]),
        "6": node("Paint", prompt="turned", seed=3),
        "7": node("SaveImage", filename_prefix="3d", images=["8", 0]),
        "8": node("Mix"),
    }
    assert outputs(graph) == {"left_45": "3", "close_up": "4", "degrees_90": "5", "images_3d": "7"}
    found = paths(propose(graph, name="x"))
    assert {"left_45_prompt", "close_up_prompt", "degrees_90_prompt"} <= found.keys()


def test_a_title_of_digits_and_letters_makes_a_name() -> None:
    graph: Graph = {
        "1": node("SaveImage", "90deg"),
        "2": node("SaveImage", "2", filename_prefix="x"),
    }
    assert outputs(graph) == {"deg_90": "1", "images": "2"}


def test_a_preview_of_an_input_is_dropped_and_others_count_where_nothing_of_the_kind_is_saved() -> (
    None
):
    graph: Graph = {
        "1": node("LoadImage", image="a.png"),
        "2": node("PreviewImage", images=["1", 0]),
        "3": node("Blur", image=["1", 0]),
        "4": node("PreviewImage", images=["3", 0]),
        "5": node("PreviewAny", source=["6", 0]),
        "6": node("PrimitiveString", value="as it is"),
        "7": node("Film", image=["3", 0]),
        "8": node("SaveVideo", video=["7", 0]),
        "9": node("PreviewImage"),
    }
    assert outputs(graph) == {"images": "4", "images_2": "9", "video": "8"}
    graph["10"] = node("SaveImage", images=["3", 0])
    assert outputs(graph) == {"images": "10", "video": "8"}
    reasons = [entry.reason for entry in propose(graph, name="x").outputs if not entry.enabled]
    assert all("preview" in reason for reason in reasons)


def test_inputs_and_outputs_of_app_mode_are_the_proposal_and_the_seed_stays_random() -> None:
    graph = text_to_image(**{"20": node("PreviewImage", images=["8", 0])})
    drawing = Drawing(
        inputs=(widget("text", "6.inputs.text"), widget("model", "4.inputs.ckpt_name")),
        outputs=("20",),
    )
    proposal = propose(graph, name="x", drawing=drawing)
    assert paths(proposal) == {
        "prompt": "6.inputs.text",
        "seed": "3.inputs.seed",
        "checkpoint": "4.inputs.ckpt_name",
    }
    assert outputs(graph, drawing) == {"images": "20"}
    assert [entry.reason for entry in proposal.outputs if "not chosen" in entry.reason]
    missing = Drawing(outputs=("3",))
    assert outputs(graph, missing) == {"images": "9"}


def test_widgets_that_subgraphs_show_are_proposed_under_their_labels_but_model_files_are_not() -> (
    None
):
    graph = text_to_image(
        **{
            "20": node("Blur", "Soft focus", radius=3, value=2, gone=None),
            "21": node("Blur", radius=4),
            "9": node("SaveImage", images=["20", 0], other=["21", 0]),
        }
    )
    drawing = Drawing(
        shown=(
            widget("softness", "20.inputs.radius", "21.inputs.radius"),
            widget("value", "20.inputs.value"),
            widget("gone", "20.inputs.gone"),
            widget("cfg", "3.inputs.cfg"),
            widget("checkpoint", "4.inputs.ckpt_name"),
        )
    )
    proposal = propose(graph, name="x", drawing=drawing)
    found = paths(proposal)
    assert found["softness"] == ["20.inputs.radius", "21.inputs.radius"]
    assert proposal.spec.inputs["softness"].default == 3
    assert proposal.spec.inputs["softness"].description == "Soft focus"
    assert found["soft_focus"] == "20.inputs.value"
    assert found["cfg"] == "3.inputs.cfg"
    assert "checkpoint" not in found


def test_value_nodes_outside_subgraphs_are_knobs() -> None:
    graph = text_to_image(
        **{
            "20": node("PrimitiveFloat", "Blur radius", value=2.5),
            "21": node("Blur", image=["8", 0], radius=["20", 0], amount=["22", 0], x=["24:1", 0]),
            "22": node("PrimitiveInt", value=3, other=1),
            "24:1": node("PrimitiveInt", value=4),
            "9": node("SaveImage", images=["21", 0]),
        }
    )
    found = paths(propose(graph, name="x"))
    assert found["blur_radius"] == "20.inputs.value"
    assert found["amount"] == "22.inputs.value"
    assert "24:1.inputs.value" not in found.values()


def service(**inputs: Any) -> Catalogue:
    """A service with these inputs, and a node that saves."""
    entry = {"input": {"required": inputs}, "output": ["IMAGE"], "api_node": True}
    save: dict[str, Any] = {
        "input": {"required": {"images": ["IMAGE"]}},
        "output": [],
        "output_node": True,
    }
    return Catalogue.parse({"Cloud": entry, "SaveImage": save})


def test_every_text_of_a_service_is_offered_except_instructions_to_the_system() -> None:
    text = ["STRING", {"multiline": True}]
    known = service(
        **{"model.prompt": text, "shot_1_text": text, "system_prompt": text},
        quality=[["low", "high"]],
    )
    values = {"model.prompt": "a", "shot_1_text": "b", "system_prompt": "c", "quality": "low"}
    graph: Graph = {"1": node("Cloud", **values), "2": node("SaveImage", images=["1", 0])}
    proposal = propose(graph, known, name="x")
    assert paths(proposal).keys() >= {"shot_1_text", "quality"}
    assert "system_prompt" in paths(proposal, enabled=False)


def test_texts_behind_a_switch_are_found() -> None:
    any_type = "COMFY_MATCHTYPE_V3"
    known = catalogue(
        Switch={"inputs": {"on": [any_type], "off": [any_type]}, "output": [any_type]},
        CLIPTextEncode={"inputs": {"text": ["STRING", {}]}, "output": ["CONDITIONING"]},
        Text={"inputs": {"value": ["STRING", {}]}, "output": ["STRING"]},
        KSampler={
            "inputs": {"model": ["MODEL"], "positive": ["CONDITIONING"]},
            "output": ["IMAGE"],
        },
        SaveImage={"inputs": {"images": ["IMAGE"]}, "output": []},
    )
    graph: Graph = {
        "1": node("Text", value="a fox"),
        "2": node("Switch", on=["1", 0], off=["3", 0]),
        "3": node("Text", "Trigger", value="pixel art, a fox"),
        "4": node("CLIPTextEncode", text=["2", 0]),
        "5": node("KSampler", model=["9", 0], positive=["4", 0]),
        "6": node("SaveImage", images=["5", 0]),
    }
    found = paths(propose(graph, known, name="x"))
    assert found == {"prompt": "1.inputs.value", "trigger_prompt": "3.inputs.value"}


def test_prompts_with_titles_of_their_own_are_all_named_by_them() -> None:
    graph = text_to_image(
        **{
            "6": node("CLIPTextEncode", "Low angle", text="from below", clip=["4", 1]),
            "16": node("CLIPTextEncode", "Close up", text="near", clip=["4", 1]),
            "13": sampler(2, "5", positive=["16", 0]),
            "18": node("VAEDecode", samples=["13", 0], vae=["4", 2]),
            "19": node("SaveImage", images=["18", 0]),
        }
    )
    found = paths(propose(graph, name="x"))
    assert found["low_angle_prompt"] == "6.inputs.text"
    assert found["close_up_prompt"] == "16.inputs.text"


def test_different_texts_of_an_encoder_of_two_have_names_of_their_own() -> None:
    graph = text_to_image(
        **{"6": node("CLIPTextEncodeSDXL", text_g="a fox", text_l="red, fur", clip=["4", 1])}
    )
    found = paths(propose(graph, name="x"))
    assert (found["prompt"], found["prompt_text_l"]) == ("6.inputs.text_g", "6.inputs.text_l")


def test_an_input_that_a_known_loader_does_not_declare_is_not_a_file() -> None:
    known = catalogue(
        LoadImage={"inputs": {"image": [["a.png"], {"image_upload": True}]}, "output": ["IMAGE"]},
        SaveImage={"inputs": {"images": ["IMAGE"]}, "output": []},
    )
    graph: Graph = {
        "1": node("LoadImage", image="a.png", upload="image"),
        "2": node("SaveImage", images=["1", 0]),
    }
    assert paths(propose(graph, known, name="x")) == {"image": "1.inputs.image"}


def test_a_control_picture_does_not_make_the_output() -> None:
    graph: Graph = {
        "1": node("Film", image=["2", 0], control_video=["3", 0]),
        "2": node("KSampler", steps=20),
        "3": node("KSampler", steps=1),
        "4": node("SaveVideo", video=["1", 0]),
    }
    proposal = propose(graph, name="x")
    assert paths(proposal) == {"steps": "2.inputs.steps"}
    assert paths(proposal, enabled=False) == {"steps_2": "3.inputs.steps"}


def test_a_map_of_every_value_has_no_list_of_others() -> None:
    graph: Graph = {"1": node("KSampler", steps=20), "2": node("SaveImage", images=["1", 0])}
    assert "# [inputs]" not in map_text(propose(graph, name="x"), graph, {})
    graph["1"]["inputs"]["extra"] = True
    assert map_text(propose(graph, name="x"), graph, {}).endswith(
        '# [inputs]\n# extra = { path = "1.inputs.extra" }  # true, KSampler\n'
    )
