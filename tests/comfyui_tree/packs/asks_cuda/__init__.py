"""Checks for the GPU on import, and stores the result."""

import torch

HAS_CUDA = torch.cuda.is_available()


class AsksCuda:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (str(HAS_CUDA),)


NODE_CLASS_MAPPINGS = {"AsksCuda": AsksCuda}
