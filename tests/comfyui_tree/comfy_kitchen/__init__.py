"""Fake of the package comfy-kitchen: kernels by backend, chosen for the device."""

from comfy_kitchen.registry import registry

# isort: split

from comfy_kitchen.backends import cuda, eager


def list_backends():
    return registry.list_backends()


def int8_attention_is_available():
    return "int8_attention" in registry.capabilities.get("cuda", ())


def int8_attention(q, k, v):
    return cuda.int8_attention(q, k, v)


__all__ = ["eager"]
