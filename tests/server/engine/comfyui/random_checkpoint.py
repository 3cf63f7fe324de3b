"""Writes random fp16 weights with SD 1.5's names and shapes, small enough for a CPU (490 MB).

Run by an interpreter that can import ComfyUI: ``random_checkpoint.py CHECKOUT TARGET``.
"""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

LEVELS = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "num_heads": 8,
    "num_head_channels": -1, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "context_dim": 768, "legacy": False, "adm_in_channels": None,
}  # fmt: skip
DECODER = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
    "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
    "dropout": 0.0,
}  # fmt: skip


def module(name: str) -> Any:
    """A module of the checkout's environment, which type checkers do not see."""
    return importlib.import_module(name)


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes by name, from ComfyUI's own classes on the meta device."""
    torch, ops, sd1_clip, autoencoder, openaimodel = (
        module(name)
        for name in (
            "torch",
            "comfy.ops",
            "comfy.sd1_clip",
            "comfy.ldm.models.autoencoder",
            "comfy.ldm.modules.diffusionmodules.openaimodel",
        )
    )
    with torch.device("meta"):
        operations = ops.disable_weight_init
        unet = openaimodel.UNetModel(**LEVELS, device="meta", operations=operations)
        vae = autoencoder.AutoencoderKL(embed_dim=4, ddconfig=DECODER)
        clip = sd1_clip.SDClipModel(device="meta", dtype=torch.float16)
    parts: dict[str, Any] = {
        "model.diffusion_model.": unet,
        "first_stage_model.": vae,
        "cond_stage_model.transformer.": clip.transformer,
    }
    return {
        prefix + name: tuple(tensor.shape)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
        if not name.startswith("text_projection")
    }


def weights(name: str, shape: tuple[int, ...], generator: Any) -> Any:
    """Constants for norms and biases, small random values for the others."""
    torch = module("torch")
    if name.endswith(".bias"):
        made = torch.zeros(shape)
    elif len(shape) == 1:
        made = torch.ones(shape)
    elif "embedding" in name and "time_embed" not in name:
        made = torch.randn(shape, generator=generator) * 0.02
    else:
        made = torch.randn(shape, generator=generator) * (0.5 / math.prod(shape[1:]) ** 0.5)
    return made.to(torch.float16).contiguous()


def main(checkout: str, target: str) -> None:
    """Write the file."""
    sys.path.insert(0, checkout)
    sys.argv = [sys.argv[0], "--cpu"]
    module("comfy.options").enable_args_parsing()
    torch = module("torch")
    generator = torch.Generator().manual_seed(0)
    made = {name: weights(name, shape, generator) for name, shape in sorted(shapes().items())}
    part = Path(target).with_suffix(".part")
    module("safetensors.torch").save_file(made, str(part), metadata={"format": "pt"})
    part.replace(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
