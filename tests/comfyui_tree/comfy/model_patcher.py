import comfy_aimdo.model_vbar


class ModelPatcher:
    """A model and its device."""

    def __init__(self, model, load_device):
        self.model, self.load_device = model, load_device


class ModelPatcherDynamic(ModelPatcher):
    """comfy-aimdo's library pages its weights to the device."""

    def __init__(self, model, load_device):
        super().__init__(model, load_device)
        self.vbar = comfy_aimdo.model_vbar.ModelVBAR(load_device.index)


CoreModelPatcher = ModelPatcher
