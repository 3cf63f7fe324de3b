"""The map that is proposed for a graph: what a person would have written."""

from typing import Any

import pytest

from comfysnap_schema.files import Kind
from comfysnap_schema.graph import Graph
from comfysnap_schema.nodes import Catalogue
from comfysnap_schema.propose import Proposal, propose


def node(class_type: str, title: str = "", /, **inputs: Any) -> dict[str, Any]:
    meta = {"_meta": {"title": title}} if title else {}
    return {"class_type": class_type, "inputs": inputs, **meta}


def text_to_image(**changes: Any) -> Graph:
    graph: dict[str, Any] = {
        "3": node(
            "KSampler", seed=7, steps=20, cfg=8, sampler_name="euler", scheduler="normal",
            denoise=1, model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="m.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a fox", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
        **changes,
    }  # fmt: skip
    return graph


def paths(proposal: Proposal, *, on: bool = True) -> dict[str, Any]:
    return {entry.name: entry.spec.path for entry in proposal.inputs if entry.on is on}


def test_a_plain_pipeline_gets_the_map_of_a_person() -> None:
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
    assert paths(proposal, on=False) == {
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
    assert {"text_encoder", "text_encoder_2"} <= set(paths(propose(graph, name="x"), on=False))


def test_the_graph_is_not_changed() -> None:
    graph = text_to_image()
    propose(graph, name="x")
    assert graph == text_to_image()


@pytest.mark.parametrize("catalogue", [None, Catalogue({})])
def test_a_graph_of_unknown_classes_is_still_proposed(catalogue: Catalogue | None) -> None:
    proposal = propose(text_to_image(), catalogue, name="x")
    assert "prompt" in paths(proposal)
    assert len(proposal.notes) == (0 if catalogue is None else 6)
