"""The editor's own format, converted to an API graph."""

from comfysnap_schema.comfy.ui_export.convert import read_export

__all__ = ["read_export"]
