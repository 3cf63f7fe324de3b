import mimetypes


def init_mime_types():
    mimetypes.add_type("application/safetensors", ".safetensors")
