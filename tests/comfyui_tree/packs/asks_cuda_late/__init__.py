"""Asks for the GPU when it is imported, and keeps the answer."""

import torch

HAS_CUDA = torch.cuda.is_available()


class AsksCudaLate:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (str(HAS_CUDA),)


NODE_CLASS_MAPPINGS = {"AsksCudaLate": AsksCudaLate}
