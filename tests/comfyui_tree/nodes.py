"""A few nodes with the original's names and inputs, and the loader of node packs."""

import hashlib
import importlib.util
import json
import logging
import os
import random
import sys
import time
import traceback

import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "comfy"))

import comfy.ldm.model
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
from comfy.cli_args import LatentPreviewMethod, args


def before_node_execution():
    comfy.model_management.throw_exception_if_processing_interrupted()


def interrupt_processing(value=True):
    comfy.model_management.interrupt_current_processing(value)


class EmptyImage:
    RETURN_TYPES, FUNCTION = ("IMAGE",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        size = {"default": 512, "min": 1, "max": 16384}
        return {"required": {"width": ("INT", size), "height": ("INT", size),
                             "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                             "color": ("INT", {"min": 0, "max": 0xFFFFFF})}}  # fmt: skip

    def run(self, width, height, batch_size, color):
        rgb = (color >> 16, color >> 8 & 255, color & 255)
        return ([Image.new("RGB", (width, height), rgb) for _ in range(batch_size)],)


class ImageInvert:
    RETURN_TYPES, FUNCTION = ("IMAGE",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return ([ImageOps.invert(one) for one in image],)


class ImageScale:
    RETURN_TYPES, FUNCTION = ("IMAGE",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        methods = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
        return {"required": {"image": ("IMAGE",), "upscale_method": (methods,),
                             "width": ("INT", {"min": 0, "max": 16384}),
                             "height": ("INT", {"min": 0, "max": 16384}),
                             "crop": (["disabled", "center"],)}}  # fmt: skip

    def run(self, image, upscale_method, width, height, crop):
        return ([one.resize((width, height)) for one in image],)


class LoadImage:
    RETURN_TYPES, FUNCTION = ("IMAGE", "MASK"), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": (sorted(os.listdir(folder_paths.get_input_directory())),)}}

    def run(self, image):
        with Image.open(folder_paths.get_annotated_filepath(image)) as picture:
            return ([picture.convert("RGB")], None)

    @classmethod
    def IS_CHANGED(cls, image):
        with open(folder_paths.get_annotated_filepath(image), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        if not folder_paths.exists_annotated_filepath(image):
            return f"Invalid image file: {image}"
        return True


class SaveImage:
    """Stores its folder when it is created, as the original does."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True
    kind = "output"

    def __init__(self):
        self.folder = folder_paths.get_directory_by_type(self.kind)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",),
                             "filename_prefix": ("STRING", {"default": "ComfyUI"})},
                "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}  # fmt: skip

    def run(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        folder, name, number, subfolder = folder_paths.get_save_image_path(
            filename_prefix, self.folder
        )
        info = PngInfo()
        info.add_text("prompt", json.dumps(prompt))
        for name, value in (extra_pnginfo or {}).items():
            info.add_text(name, json.dumps(value))
        results = []
        for index, image in enumerate(images):
            file = f"{name}_{number + index:05}_.png"
            image.save(os.path.join(folder, file), pnginfo=info, compress_level=1)
            results.append({"filename": file, "subfolder": subfolder, "type": self.kind})
        return {"ui": {"images": results}}


class PreviewImage(SaveImage):
    kind = "temp"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT"}}

    def run(self, images, prompt=None):
        return super().run(images, "preview_" + "".join(random.choices("abcdef", k=5)), prompt)


class PreviewAny:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("*", {})}}

    def run(self, source=None):
        return {"ui": {"text": (str(source),)}}


class CheckpointLoaderSimple:
    RETURN_TYPES, FUNCTION = ("MODEL", "CLIP", "VAE"), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    def run(self, ckpt_name):
        tensors = comfy.utils.load_torch_file(folder_paths.get_full_path("checkpoints", ckpt_name))
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        device = comfy.model_management.get_torch_device()
        model = patcher({"name": ckpt_name, "tensors": sorted(tensors)}, device)
        tensors.clear()
        comfy.model_management.loaded.append(model)
        return (model, model, model)


class CLIPTextEncode:
    RETURN_TYPES, FUNCTION = ("CONDITIONING",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {"multiline": True})}}

    def run(self, clip, text):
        return (text,)


class EmptyLatentImage:
    RETURN_TYPES, FUNCTION = ("LATENT",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        size = {"default": 512, "min": 16, "max": 16384, "step": 8}
        return {"required": {"width": ("INT", size), "height": ("INT", size),
                             "batch_size": ("INT", {"min": 1, "max": 4096})}}  # fmt: skip

    def run(self, width, height, batch_size):
        return ({"size": (width, height)},)


class KSampler:
    """Seeds torch globally, and can be interrupted at each step."""

    RETURN_TYPES, FUNCTION = ("LATENT",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",),
                             "negative": ("CONDITIONING",), "latent_image": ("LATENT",),
                             "seed": ("INT", {"min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                             "steps": ("INT", {"min": 1, "max": 10000}),
                             "cfg": ("FLOAT", {"min": 0.0, "max": 100.0}),
                             "sampler_name": (["euler", "dpmpp_2m"],),
                             "scheduler": (["normal", "karras"],),
                             "denoise": ("FLOAT", {"min": 0.0, "max": 1.0})}}  # fmt: skip

    def run(self, model, positive, negative, latent_image, seed, steps, **_):
        torch.manual_seed(seed)
        comfy.ldm.model.attend(*[torch.empty([4096])] * 3)
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(0.001)  # the work of a step, so that an interrupt comes between two
            shown = None
            if args.preview_method is not LatentPreviewMethod.NoPreviews:
                shown = ("JPEG", Image.new("RGB", (64, 64), (step % 256, 0, 0)), 512)
            bar.update_absolute(step + 1, steps, shown)
        return ({**latent_image, "seed": seed, "text": positive},)


class VAEDecode:
    RETURN_TYPES, FUNCTION = ("IMAGE",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def run(self, samples, vae):
        digest = hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).digest()
        return ([Image.new("RGB", samples["size"], tuple(digest[:3]))],)


_ALL = [
    EmptyImage, ImageInvert, ImageScale, LoadImage, SaveImage, PreviewImage, PreviewAny,
    CheckpointLoaderSimple, CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode,
]  # fmt: skip
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in _ALL}
NODE_DISPLAY_NAME_MAPPINGS = {}


async def load_custom_node(module_path, ignore=(), module_parent="custom_nodes"):
    """Imports a pack; logs failures and continues."""
    file = module_path if os.path.isfile(module_path) else os.path.join(module_path, "__init__.py")
    name = os.path.splitext(module_path)[0]
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except Exception as error:
        logging.warning(traceback.format_exc())
        logging.warning(f"Cannot import {module_path} module for custom nodes: {error}")
        return False
    mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
    if mappings is None:
        logging.warning(f"Skip {module_path}: it defines no nodes.")
        return False
    for name, kind in mappings.items():
        if name not in ignore:
            NODE_CLASS_MAPPINGS[name] = kind
            pack = os.path.splitext(os.path.basename(module_path))[0]
            kind.RELATIVE_PYTHON_MODULE = f"{module_parent}.{pack}"
    return True


async def init_extra_nodes(init_custom_nodes=True, init_api_nodes=True):
    """Custom nodes are loaded one by one by the caller."""
    return []
