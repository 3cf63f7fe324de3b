from comfy_kitchen.registry import registry

registry.register("eager", {"quantize": None})
