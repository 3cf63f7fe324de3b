class ModelPatcher:
    """A model and the device that it is loaded to."""

    def __init__(self, model, load_device):
        self.model, self.load_device = model, load_device
