"""Small graphs to propose maps for."""

from typing import Any

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.propose.proposal import Proposal


def node(class_type: str, title: str = "", /, **inputs: Any) -> Any:
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


def paths(proposal: Proposal, *, enabled: bool = True) -> dict[str, Any]:
    return {entry.name: entry.spec.path for entry in proposal.inputs if entry.enabled is enabled}


def catalogue(**classes: dict[str, Any]) -> Catalogue:
    return Catalogue.parse(
        {
            name: {"input": {"required": inputs}, "output": output, "output_node": not output}
            for name, (inputs, output) in (
                (name, (entry["inputs"], entry["output"])) for name, entry in classes.items()
            )
        }
    )
