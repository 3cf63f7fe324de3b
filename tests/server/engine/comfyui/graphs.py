"""Graphs that run both on a real ComfyUI and on the tree."""

from typing import Any

Graph = dict[str, Any]
CHECKPOINT = "random-sd15.safetensors"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def hello(color: int = 0x2E7D5B, count: int = 1, prefix: str = "hello") -> Graph:
    return {
        "1": node("EmptyImage", width=16, height=16, batch_size=count, color=color),
        "2": node("ImageScale", image=["1", 0], upscale_method="nearest-exact", width=32,
                  height=32, crop="disabled"),
        "3": node("SaveImage", images=["2", 0], filename_prefix=prefix),
    }  # fmt: skip


def invert(name: str) -> Graph:
    return {
        "1": node("LoadImage", image=name),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix="inverted"),
    }


def diffusion(seed: int = 1, text: str = "a fox", steps: int = 2) -> Graph:
    return {
        "4": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", clip=["4", 1], text=text),
        "7": node("CLIPTextEncode", clip=["4", 1], text=""),
        "3": node("KSampler", model=["4", 0], positive=["6", 0], negative=["7", 0],
                  latent_image=["5", 0], seed=seed, steps=steps, cfg=7.0, sampler_name="euler",
                  scheduler="normal", denoise=1.0),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="diffusion"),
    }  # fmt: skip


def through(kind: str, **inputs: Any) -> Graph:
    """Pass an image through one node of the test packs and save it."""
    return {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=1),
        "2": node(kind, image=["1", 0], **inputs),
        "3": node("SaveImage", images=["2", 0], filename_prefix="through"),
    }


def to_text(kind: str, **inputs: Any) -> Graph:
    """Output the text of one node of the test packs."""
    return {"1": node(kind, **inputs), "2": node("Tell", text=["1", 0])}
