import json


def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):
    """The names of the tensors in a safetensors file; every tensor is None."""
    with open(ckpt, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header.pop("__metadata__", None)
    tensors = dict.fromkeys(header)
    return (tensors, metadata) if return_metadata else tensors
