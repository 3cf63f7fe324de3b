"""A CUDA build; there is a device only with TREE_CUDA=1."""

import os
import types

from torch import OutOfMemoryError

__all__ = ["OutOfMemoryError"]

GIB = 1024**3


def is_available():
    return os.environ.get("TREE_CUDA") == "1"


def device_count():
    return int(is_available())


def is_initialized():
    return is_available()


def is_bf16_supported():
    return is_available()


def _lazy_init():
    if not is_available():
        raise RuntimeError("Found no NVIDIA driver on your system.")


def init():
    _lazy_init()


def current_device():
    _lazy_init()
    return 0


def get_device_properties(_which=None):
    _lazy_init()
    return types.SimpleNamespace(name="tree", major=9, minor=0, total_memory=24 * GIB)


def get_device_name(_which=None):
    return get_device_properties().name


def get_device_capability(_which=None):
    properties = get_device_properties()
    return properties.major, properties.minor


def mem_get_info(_which=None):
    total = get_device_properties().total_memory
    return total - GIB, total


def memory_stats(_which=None):
    _lazy_init()
    return {"reserved_bytes.all.current": 0}


def set_device(_which):
    _lazy_init()


def synchronize(_which=None):
    _lazy_init()
