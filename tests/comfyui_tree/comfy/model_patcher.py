"""Keeps a model and the device that it runs on."""


class ModelPatcher:
    pass


CoreModelPatcher = ModelPatcher
