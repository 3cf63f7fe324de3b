"""Asks for the GPU when it is imported, and keeps the answer."""

import folder_paths
import torch

HAS_CUDA = torch.cuda.is_available()


class AsksCudaLate:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (str(HAS_CUDA),)


class NotesFolders(AsksCudaLate):
    """Where it would save: some packs note that when they are imported."""

    folder = folder_paths.get_output_directory()

    def run(self):
        return (self.folder,)


NODE_CLASS_MAPPINGS = {"NotesFolders": NotesFolders, "AsksCudaLate": AsksCudaLate}
