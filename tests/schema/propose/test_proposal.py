"""The map that is proposed for a graph."""

from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.wire.files import Kind
from tests.schema.graphs import node, paths, text_to_image


def test_a_simple_pipeline_gets_the_map_one_would_write_by_hand() -> None:
    proposal = propose(text_to_image(), name="plain")
    assert paths(proposal) == {
        "prompt": "6.inputs.text",
        "negative_prompt": "7.inputs.text",
        "seed": "3.inputs.seed",
        "width": "5.inputs.width",
        "height": "5.inputs.height",
        "batch_size": "5.inputs.batch_size",
        "steps": "3.inputs.steps",
        "cfg": "3.inputs.cfg",
        "sampler": "3.inputs.sampler_name",
        "scheduler": "3.inputs.scheduler",
    }
    assert paths(proposal, enabled=False) == {
        "denoise": "3.inputs.denoise",
        "checkpoint": "4.inputs.ckpt_name",
    }
    spec = proposal.spec
    assert spec.name == "plain"
    assert spec.inputs["seed"].random
    assert spec.inputs["cfg"].type == "number"
    assert spec.outputs["images"].node == "9"
    assert spec.outputs["images"].many
    assert spec.outputs["images"].kind is Kind.IMAGE
    assert all(entry.reason for entry in [*proposal.inputs, *proposal.outputs])


def test_two_inputs_of_one_node_are_numbered() -> None:
    graph = text_to_image(
        **{"4": node("DualCLIPLoader", "Both", clip_name1="a.safetensors", clip_name2="b.pt")}
    )
    assert {"text_encoder", "text_encoder_2"} <= set(paths(propose(graph, name="x"), enabled=False))


def test_the_graph_is_not_changed() -> None:
    graph = text_to_image()
    propose(graph, name="x")
    assert graph == text_to_image()


@pytest.mark.parametrize("catalogue", [None, Catalogue({})])
def test_a_graph_of_unknown_classes_is_still_proposed(catalogue: Catalogue | None) -> None:
    proposal = propose(text_to_image(), catalogue, name="x")
    assert "prompt" in paths(proposal)
    assert len(proposal.notes) == (0 if catalogue is None else 6)


def test_without_a_sampler_texts_are_recognized_by_their_names() -> None:
    graph: Graph = {
        "1": node("VideoService", prompt="waves", negative_prompt="text", seed=1, duration=5),
        "2": node("VideoService", "Closer look", prompt="shore", negative_prompt="text", seed=1),
        "3": node("SaveVideo", video=["1", 0]),
        "4": node("SaveVideo", video=["2", 0]),
    }
    proposal = propose(graph, name="x")
    assert paths(proposal) == {
        "prompt": "1.inputs.prompt",
        "closer_look_prompt": "2.inputs.prompt",
        "negative_prompt": ["1.inputs.negative_prompt", "2.inputs.negative_prompt"],
        "seed": ["1.inputs.seed", "2.inputs.seed"],
        "duration": "1.inputs.duration",
    }
    assert list(proposal.spec.outputs) == ["video", "closer_look"]


def test_a_text_beside_a_sampled_prompt_is_proposed_and_disabled() -> None:
    graph = text_to_image(
        **{"20": node("Speak", "Narrator", text="hello"), "21": node("SaveAudio", audio=["20", 0])}
    )
    assert paths(propose(graph, name="x"), enabled=False)["narrator"] == "20.inputs.text"


def test_a_guidance_of_one_disables_negative_prompt_and_cfg() -> None:
    graph = text_to_image()
    graph["3"]["inputs"]["cfg"] = 1.0
    off = paths(propose(graph, name="x"), enabled=False)
    assert {"negative_prompt", "cfg"} <= set(off)


def test_prompts_are_found_behind_combiners_primitives_and_guiders() -> None:
    graph: Graph = {
        "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0], latent_image=["4", 0]),
        "2": node("RandomNoise", noise_seed=2**64 - 1),
        "3": node("CFGGuider", model=["9", 0], positive=["5", 0], negative=["5", 1], cfg=3.0),
        "4": node("EmptySD3LatentImage", width=["14", 0], height=["14", 0], batch_size=1),
        "5": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=0.8,
                  control_net=["15", 0], image=["16", 0]),
        "6": node("ConditioningCombine", conditioning_1=["10", 0], conditioning_2=["11", 0]),
        "7": node("CLIPTextEncode", text=["12", 0], clip=["9", 1]),
        "9": node("CheckpointLoaderSimple", ckpt_name="m.safetensors"),
        "10": node("FluxGuidance", guidance=3.5, conditioning=["13", 0]),
        "11": node("CLIPTextEncode", "Background", text="a wood", clip=["9", 1]),
        "12": node("PrimitiveString", value="blurry"),
        "13": node("CLIPTextEncode", text="a fox", clip=["9", 1]),
        "14": node("INTConstant", value=1024),
        "15": node("ControlNetLoader", control_net_name="c.safetensors"),
        "16": node("LoadImage", image="pose.png"),
        "17": node("VAEDecode", samples=["1", 0], vae=["9", 2]),
        "18": node("SaveImage", images=["17", 0]),
    }  # fmt: skip
    found = paths(propose(graph, name="x"))
    assert found["prompt"] == "13.inputs.text"
    assert found["background_prompt"] == "11.inputs.text"
    assert found["negative_prompt"] == "12.inputs.value"
    assert found["seed"] == "2.inputs.noise_seed"
    assert found["size"] == "14.inputs.value"
    assert found["control_strength"] == "5.inputs.strength"
    assert found["guidance"] == "10.inputs.guidance"
    assert found["image"] == "16.inputs.image"
    assert "width" not in found


def test_a_zeroed_negative_is_not_a_prompt_and_one_text_for_both_sides_is_positive() -> None:
    graph = text_to_image(**{"7": node("ConditioningZeroOut", conditioning=["6", 0])})
    assert "negative_prompt" not in paths(propose(graph, name="x"))
    graph = text_to_image()
    graph["3"]["inputs"]["negative"] = ["6", 0]
    assert paths(propose(graph, name="x"))["prompt"] == "6.inputs.text"


def test_the_second_conditioning_of_a_guider_takes_the_negative_side_of_a_pair() -> None:
    graph: Graph = {
        "1": node("DualCFGGuider", model=["9", 0], cond1=["2", 0], cond2=["2", 1]),
        "2": node("InstructPixToPixConditioning", positive=["3", 0], negative=["4", 0]),
        "3": node("CLIPTextEncode", text="new hair"),
        "4": node("CLIPTextEncode", text="ugly"),
        "9": node("CheckpointLoaderSimple", ckpt_name="m.safetensors"),
        "10": node("SamplerCustomAdvanced", guider=["1", 0]),
        "11": node("SaveImage", images=["10", 0]),
    }
    found = paths(propose(graph, name="x"))
    assert found == {"prompt": "3.inputs.text", "negative_prompt": "4.inputs.text"}
    graph["1"]["inputs"]["cond2"] = ["2", 2]
    assert "prompt_2" not in paths(propose(graph, name="x"))


def test_empty_prompts_count_only_when_there_is_no_other() -> None:
    graph = text_to_image()
    graph["6"] = node("CLIPTextEncodeSDXL", text_g="", text_l="", clip=["4", 1])
    assert paths(propose(graph, name="x"))["prompt"] == ["6.inputs.text_g", "6.inputs.text_l"]
    graph["6"]["inputs"]["text_g"] = "a fox"
    assert paths(propose(graph, name="x"))["prompt"] == "6.inputs.text_g"


def test_both_encoders_of_flux_have_one_prompt() -> None:
    graph = text_to_image(
        **{"6": node("CLIPTextEncodeFlux", clip_l="fox", t5xxl="a red fox", guidance=3.5)}
    )
    found = paths(propose(graph, name="x"))
    assert found["prompt"] == ["6.inputs.clip_l", "6.inputs.t5xxl"]
    assert found["guidance"] == "6.inputs.guidance"
    assert propose(graph, name="x").spec.inputs["prompt"].default == "a red fox"


def test_the_prompt_is_the_text_without_distinctive_words() -> None:
    graph = text_to_image(
        **{
            "6": node("CLIPTextEncode", text=["20", 0]),
            "20": node("StringConcatenate", string_a=["21", 0], string_b=["22", 0], delimiter=","),
            "21": node("PrimitiveStringMultiline", "System prompt", value="be good"),
            "22": node("PrimitiveStringMultiline", "Prompt", value="a fox"),
        }
    )
    found = paths(propose(graph, name="x"))
    assert found["prompt"] == "22.inputs.value"
    assert found["system_prompt"] == "21.inputs.value"
    spec = propose(graph, name="x").spec
    assert spec.inputs["system_prompt"].description == "The system prompt."
    assert spec.inputs["prompt"].description != spec.inputs["system_prompt"].description


def test_tags_and_lyrics_keep_their_names() -> None:
    graph = text_to_image(**{"6": node("TextEncodeAceStepAudio", tags="rock", lyrics="la la")})
    assert {"tags", "lyrics"} <= set(paths(propose(graph, name="x")))


def test_stages_with_equal_values_are_one_parameter_and_an_unused_seed_is_disabled() -> None:
    stage = {"steps": 25, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal"}
    graph = text_to_image(
        **{
            "3": node(
                "KSamplerAdvanced", "Sampler - BASE", add_noise="enable", noise_seed=7,
                start_at_step=0, end_at_step=20, latent_image=["5", 0], model=["4", 0],
                positive=["6", 0], negative=["7", 0], **stage,
            ),
            "13": node(
                "KSamplerAdvanced", "Sampler - REFINER", add_noise="disable", noise_seed=0,
                start_at_step=20, end_at_step=10000, latent_image=["3", 0], model=["14", 0],
                positive=["6", 0], negative=["7", 0], **stage,
            ),
            "14": node("CheckpointLoaderSimple", "Load Checkpoint - REFINER", ckpt_name="r.ckpt"),
            "8": node("VAEDecode", samples=["13", 0], vae=["4", 2]),
        }
    )  # fmt: skip
    proposal = propose(graph, name="x")
    found, off = paths(proposal), paths(proposal, enabled=False)
    assert found["steps"] == ["3.inputs.steps", "13.inputs.steps"]
    assert found["switch_step"] == ["3.inputs.end_at_step", "13.inputs.start_at_step"]
    assert found["seed"] == "3.inputs.noise_seed"
    assert off["refiner_seed"] == "13.inputs.noise_seed"
    assert (off["checkpoint"], off["refiner_checkpoint"]) == (
        "4.inputs.ckpt_name",
        "14.inputs.ckpt_name",
    )


def test_sizes_that_must_agree_are_one_parameter_and_that_of_a_resize_is_another() -> None:
    graph = text_to_image(
        **{
            "6": node(
                "CLIPTextEncodeSDXL", text_g="fox", width=512, height=768, target_width=512,
                target_height=768, crop_w=0,
            ),
            "20": node("ImageScale", image=["8", 0], width=2048, height=2048),
            "9": node("SaveImage", images=["20", 0]),
        }
    )  # fmt: skip
    proposal = propose(graph, name="x")
    assert paths(proposal)["width"] == [
        "5.inputs.width",
        "6.inputs.width",
        "6.inputs.target_width",
    ]
    assert paths(proposal)["resize_width"] == "20.inputs.width"


def test_a_size_that_is_linked_from_another_node_is_set_there() -> None:
    graph: Graph = {
        "1": node("CameraEmbedding", width=832, height=480, length=81),
        "2": node("WanCameraImageToVideo", width=["1", 1], height=["1", 2], length=["1", 3]),
        "3": node("SaveImage", images=["2", 0]),
    }
    found = paths(propose(graph, name="x"))
    assert found == {
        "width": "1.inputs.width",
        "height": "1.inputs.height",
        "frames": "1.inputs.length",
    }


def test_a_boolean_or_computed_size_is_not_proposed() -> None:
    graph: Graph = {
        "1": node("EmptyLatentImage", width=True, height=["9", 0], batch_size=False),
        "2": node("Math", a=["1", 0], seed=True, steps="many"),
        "3": node("SaveImage", images=["2", 0], fps={"__value__": [1]}),
    }
    assert paths(propose(graph, name="x")) == {}


def test_frames_and_rate_are_found_and_equal_rates_are_one_parameter() -> None:
    graph: Graph = {
        "1": node("EmptyHunyuanLatentVideo", width=832, height=480, length=33, batch_size=1),
        "2": node("LTXVConditioning", frame_rate=25.0),
        "3": node("CreateVideo", images=["1", 0], fps=24.0, other=["2", 0]),
        "4": node("SaveVideo", video=["3", 0]),
        "5": node("StringTrim", length=3),
        "6": node("SaveText", text=["5", 0]),
    }
    found = paths(propose(graph, name="x"))
    assert found["frames"] == "1.inputs.length"
    assert found["fps"] == "3.inputs.fps"
    assert found["frame_rate"] == "2.inputs.frame_rate"
    graph["2"]["inputs"]["frame_rate"] = 24.0
    both = paths(propose(graph, name="x"))["fps"]
    assert set(both) == {"3.inputs.fps", "2.inputs.frame_rate"}


def test_dangling_and_circular_links_are_ignored() -> None:
    graph = text_to_image()
    graph["3"]["inputs"] |= {"seed": ["20", 0], "positive": ["99", 0], "steps": ["99", 0]}
    graph["20"] = node("PrimitiveInt", value=["21", 0])
    graph["21"] = node("PrimitiveInt", value=["20", 0])
    graph["7"]["inputs"]["text"] = ["7", 0]
    found = paths(propose(graph, name="x"))
    assert "seed" not in found
    assert "steps" not in found


def test_malformed_links_and_titles_are_ignored() -> None:
    graph: Any = text_to_image()
    graph["3"]["inputs"] |= {"steps": ["5", 1e400], "cfg": ["5", 0.5], "seed": [1], "model": {}}
    graph["6"]["_meta"] = None
    graph["7"]["_meta"] = {"title": 7}
    assert {"prompt", "negative_prompt"} <= set(paths(propose(graph, name="x")))


def test_long_and_unusual_titles_give_valid_names() -> None:
    graph = text_to_image(
        **{
            "3": node("KSampler", "漢字 " + "Extraordinary" * 9, seed=1, model=["4", 0]),
            "13": node("KSampler", "漢字 " + "Extraordinary" * 9, seed=2, latent_image=["3", 0]),
            "8": node("VAEDecode", samples=["13", 0]),
        }
    )
    spec = propose(graph, name="x").spec
    assert all(len(name) <= 64 for name in spec.inputs)
