"""Nodes that each test one behaviour of the engine."""

import asyncio
import contextlib
import io
import json
import os
import random
import shutil
import sys
import time

import comfy.utils
import folder_paths
import torch
from comfy_execution.graph import ExecutionBlocker
from PIL import Image
from server import PromptServer

IMAGE = {"image": ("IMAGE",)}
STEPS = {"steps": ("INT", {"min": 1, "max": 100000})}
TEXT = {"text": ("STRING", {"default": ""})}


def node(inputs, returns=("IMAGE",), output=False):
    """Converts a function to a node class."""

    def decorate(function):
        class Node:
            RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = returns, "run", "test", output

            @classmethod
            def INPUT_TYPES(cls):
                return {"required": dict(inputs)}

            run = staticmethod(function)

        NODE_CLASS_MAPPINGS[function.__name__] = Node
        return Node

    return decorate


NODE_CLASS_MAPPINGS = {}


@node({**IMAGE, **STEPS})
def Steps(image, steps):
    """A cancellable sampler with 1 ms per step."""
    bar = comfy.utils.ProgressBar(steps)
    for _ in range(steps):
        time.sleep(0.001)  # the work of a step, so that an interrupt comes between two
        bar.update(1)
    return (image,)


@node(IMAGE)
def StepsOddly(image):
    """Reports NaN and infinite steps, as nodes that divide by zero do."""
    for total in (0, -3, 2.5, float("nan"), float("inf")):
        bar = comfy.utils.ProgressBar(total)
        bar.update(1)
        bar.update_absolute(7, total)
        bar.update_absolute(float("nan"), total)
    return (image,)


@node({**IMAGE, "text": ("STRING", {"default": ""})})
def Fails(image, text):
    raise ValueError(text)


class PaysWithKey:
    """Pretends to call a paid service: returns whether it has a key, or fails with the key."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": TEXT, "hidden": {"key": "API_KEY_COMFY_ORG"}}

    def run(self, text, key=None):
        if text == "refused":
            raise ValueError(f"401: the key {key} is not valid")
        return (f"{text} with a key" if key else f"{text} without a key",)


NODE_CLASS_MAPPINGS["PaysWithKey"] = PaysWithKey


class EndsWhenChecked:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {**IMAGE, **TEXT}}

    @classmethod
    def VALIDATE_INPUTS(cls, text):
        sys.exit(text)

    def run(self, image, text):
        return (image,)


NODE_CLASS_MAPPINGS["EndsWhenChecked"] = EndsWhenChecked


@node(IMAGE)
def RunsOutOfMemory(image):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")


@node(IMAGE)
def BreaksTheDevice(image):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


HOME = folder_paths.get_output_directory()


@node(TEXT, returns=(), output=True)
def SavesWhereItWasImported(text):
    """Saves to the output folder that was set on import, as some packs do."""
    name = f"{os.urandom(8).hex()}.txt"
    os.makedirs(os.path.join(HOME, "notes"), exist_ok=True)
    with open(os.path.join(HOME, "notes", name), "w", encoding="utf-8") as file:
        file.write(text)
    return {"ui": {"files": [{"filename": name, "subfolder": "notes", "type": "output"}]}}


class Unknown(BaseException):
    pass


def forks_a_child_that_exits():
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)


WAYS_TO_END = {
    "exit": lambda: sys.exit(3),
    "cancel": lambda: (_ for _ in ()).throw(asyncio.CancelledError),
    "unknown": lambda: (_ for _ in ()).throw(Unknown),
    "child": forks_a_child_that_exits,
}


@node({**IMAGE, "way": ("STRING", {})})
def Ends(image, way):
    """Raises an exception that is not an ``Exception``."""
    WAYS_TO_END[way]()
    return (image,)


class Expands:
    """Expands to two nodes: one that saves, and one whose result it returns."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"color": ("INT", {"min": 0, "max": 0xFFFFFF})},
                "hidden": {"me": "UNIQUE_ID"}}  # fmt: skip

    def run(self, color, me):
        image = {"width": 8, "height": 8, "batch_size": 1, "color": color}
        return {
            "result": ([f"{me}.made", 0],),
            "expand": {
                f"{me}.made": {"class_type": "EmptyImage", "inputs": image},
                f"{me}.saved": {
                    "class_type": "SaveImage",
                    "inputs": {"images": [f"{me}.made", 0], "filename_prefix": "expanded"},
                },
            },
        }


NODE_CLASS_MAPPINGS["Expands"] = Expands


@node({"steps": ("INT", {"min": 1, "max": 100000})}, returns=("STRING",))
def CountsUntilStopped(steps):
    """Returns early when it is interrupted."""
    done = 0
    with contextlib.suppress(Exception):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(0.001)  # the work of a step
            bar.update(1)
            done += 1
    return (str(done),)


@node(TEXT, returns=("STRING",))
def WritesTemp(text):
    """Returns the path of a file in the job's folder."""
    path = os.path.join(folder_paths.get_temp_directory(), "note.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return (path,)


@node({"path": ("STRING", {"forceInput": True}), "again": ("INT", {})}, returns=("STRING",))
def ReadsPath(path, again):
    with open(path, encoding="utf-8") as file:
        return (file.read(),)


@node(IMAGE)
def Blocks(image):
    return (ExecutionBlocker("not today"),)


class Waits:
    """Waits forever on the event loop."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": IMAGE}

    async def run(self, image):
        comfy.utils.ProgressBar(2).update(1)
        await asyncio.Event().wait()
        return (image,)


NODE_CLASS_MAPPINGS["Waits"] = Waits


@node({"number": ("INT", {})}, returns=("STRING",))
def UpsetsTheProcess(number):
    """Changes the working folder and closes streams."""
    os.chdir("/")
    sys.stdout = sys.stderr = io.StringIO()
    sys.stdout.close()
    return (str(number),)


@node({"number": ("INT", {})}, returns=("STRING",))
def Writes(number):
    sys.stdout.write(f"{number}\n")
    sys.stderr.write(f"{number}\n")
    return (os.getcwd(),)


class RandomNumbers:
    """Values of the global random generators; never cached."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return os.urandom(8).hex()

    def run(self):
        number = getattr(torch, "rand_number", lambda: torch.rand(1).item())()
        return (f"{random.random()} {number}",)


NODE_CLASS_MAPPINGS["RandomNumbers"] = RandomNumbers


@node({"seed": ("INT", {"min": 0, "max": 2**31})}, returns=("STRING",))
def Seeds(seed):
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    return (str(seed),)


class ReadsInput:
    """Reads an input file without ``IS_CHANGED``."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {"default": ""})}}

    def run(self, file):
        with open(folder_paths.get_annotated_filepath(file), encoding="utf-8") as text:
            return (text.read(),)


NODE_CLASS_MAPPINGS["ReadsInput"] = ReadsInput


@node({"file": ("STRING", {"default": ""})}, returns=("STRING",))
def ReadsAndTidies(file):
    """Deletes the input folder after reading from it."""
    with open(folder_paths.get_annotated_filepath(file), encoding="utf-8") as text:
        found = text.read()
    shutil.rmtree(folder_paths.get_input_directory())
    return (found,)


@node({"text": ("STRING", {"forceInput": True})}, returns=("STRING",))
def Echo(text):
    return (text,)


@node(TEXT, returns=("STRING",))
def Text(text):
    return (text,)


@node({"text": ("STRING", {"forceInput": True})}, returns=(), output=True)
def Tell(text):
    return {"ui": {"text": (text,)}}


@node(TEXT, returns=(), output=True)
def TellsOfForeignFiles(text):
    """Reports files outside the job's folder."""
    items = [{"filename": name, "subfolder": "", "type": "output"} for name in text.split()]
    return {"ui": {"images": items}}


@node(TEXT, returns=(), output=True)
def SavesAndReports(text):
    """Writes files and reports ``ui``, both as the text says in JSON."""
    folders = {"output": folder_paths.get_output_directory(),
               "temp": folder_paths.get_temp_directory()}  # fmt: skip
    told = json.loads(text.replace("{output}", folders["output"]))
    for name, content in told["files"].items():
        kind, _, below = name.partition("/")
        path = os.path.join(folders[kind], below)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
    return {"ui": told["ui"]} if "ui" in told else {}


@node({"way": ("STRING", {"default": "bar"})}, returns=(), output=True)
def SendsImages(way):
    """Sends two images and a preview to the front end and saves nothing."""
    images = [("PNG", Image.new("RGB", (8, 8), "red"), None),
              ("JPEG", Image.new("RGB", (8, 8), "blue"), 512),
              ("JPEG", Image.new("RGB", (8, 8), "green"), None)]  # fmt: skip
    bar = comfy.utils.ProgressBar(len(images))
    for step, image in enumerate(images):
        if way == "bar":
            bar.update_absolute(step, len(images), image)
        else:
            PromptServer.instance.send_sync(2, list(image), "comfysnap")
    return {}


class ReadsDrawing:
    """Counts the nodes of the editor's workflow."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": TEXT, "hidden": {"extra_pnginfo": "EXTRA_PNGINFO"}}

    def run(self, text, extra_pnginfo=None):
        return (f"{text} {len(extra_pnginfo['workflow']['nodes'])}",)


NODE_CLASS_MAPPINGS["ReadsDrawing"] = ReadsDrawing
