import comfy_aimdo.model_vbar


class ModelPatcher:
    """A model and the device that it is loaded to."""

    def __init__(self, model, load_device):
        self.model, self.load_device = model, load_device


class ModelPatcherDynamic(ModelPatcher):
    """Its weights come to the device page by page, by comfy-aimdo's library."""

    def __init__(self, model, load_device):
        super().__init__(model, load_device)
        self.vbar = comfy_aimdo.model_vbar.ModelVBAR(load_device.index)


CoreModelPatcher = ModelPatcher
