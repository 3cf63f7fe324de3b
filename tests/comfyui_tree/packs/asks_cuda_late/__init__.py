"""Checks for the GPU on import, and stores the result."""

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
    """The output folder, which some packs store on import."""

    folder = folder_paths.get_output_directory()

    def run(self):
        return (self.folder,)


NODE_CLASS_MAPPINGS = {"NotesFolders": NotesFolders, "AsksCudaLate": AsksCudaLate}
