"""Catches the interrupt and every other exception."""

import time

import comfy.utils


class Stubborn:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "steps": ("INT", {"min": 1, "max": 100000})}}

    def run(self, image, steps):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(0.005)  # the work of a step
            try:
                bar.update(1)
            except Exception:  # noqa: S112 -- its purpose
                continue
        return (image,)


NODE_CLASS_MAPPINGS = {"Stubborn": Stubborn}
