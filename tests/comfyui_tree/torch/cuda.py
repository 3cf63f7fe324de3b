"""CUDA on a machine without one; TREE_CUDA=1 pretends a device."""

import os

from torch import OutOfMemoryError, device

__all__ = ["OutOfMemoryError"]


def is_available():
    return os.environ.get("TREE_CUDA") == "1"


def device_count():
    return int(is_available())


def is_initialized():
    return is_available()


def _lazy_init():
    if not is_available():
        raise AssertionError("Torch not compiled with CUDA enabled")


def init():
    _lazy_init()


def current_device():
    _lazy_init()
    return device("cuda", 0)


def get_device_properties(_which=None):
    _lazy_init()
    return {"name": "tree"}


def get_device_name(_which=None):
    _lazy_init()
    return "tree"
