"""Stores the library on import, and does not see one that is loaded later."""

from comfy_aimdo import control

lib = control.lib


class ModelVBAR:
    def __init__(self, device):
        if lib is None:
            raise RuntimeError("comfy-aimdo's library was loaded after this module")
        self.device = control.get_devctx(device)
