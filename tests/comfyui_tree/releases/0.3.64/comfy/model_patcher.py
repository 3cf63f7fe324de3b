class ModelPatcher:
    """A model and its device."""

    def __init__(self, model, load_device):
        self.model, self.load_device = model, load_device
