"""Fake of torch for environments without it: names and byte buffers, no arithmetic."""

import math
import random as _random
from contextlib import contextmanager


class dtype:
    def __init__(self, name, itemsize):
        self.name, self.itemsize = name, itemsize

    def __repr__(self):
        return f"torch.{self.name}"


uint8, bool = dtype("uint8", 1), dtype("bool", 1)
float16, bfloat16, int16 = dtype("float16", 2), dtype("bfloat16", 2), dtype("int16", 2)
float32, int32 = dtype("float32", 4), dtype("int32", 4)
float64, int64 = dtype("float64", 8), dtype("int64", 8)
_state = {"threads": 2, "dtype": float32, "deterministic": False, "random": _random.Random(0)}


class OutOfMemoryError(RuntimeError):
    pass


class device:
    def __init__(self, name="cpu", index=None):
        if isinstance(name, int):
            name, index = "cuda", name
        self.type = str(name)
        self.index = name.index if isinstance(name, device) else index

    def __str__(self):
        return self.type


class Tensor:
    def __init__(self, data, shape, kind):
        self.data, self.shape, self.dtype = data, list(shape), kind

    def view(self, what):
        if isinstance(what, dtype):
            return Tensor(self.data, [len(self.data) // what.itemsize], what)
        return Tensor(self.data, [self.nelement()], self.dtype)

    def numpy(self):
        return self.data

    def nelement(self):
        return math.prod(self.shape)

    def element_size(self):
        return self.dtype.itemsize

    def fill(self, byte):
        """Write to the tensor; a lazy clone is copied first."""
        self.data = bytearray([byte]) * len(self.data)


def empty(shape, dtype=float32):
    return Tensor(bytearray(math.prod(shape) * dtype.itemsize), shape, dtype)


def zeros(*shape, device="cpu"):
    if str(device).startswith("cuda"):
        cuda._lazy_init()
    return empty(shape)


def _lazy_clone(tensor):
    return Tensor(tensor.data, tensor.shape, tensor.dtype)


def get_num_threads():
    return _state["threads"]


def set_num_threads(count):
    _state["threads"] = count


def manual_seed(seed):
    _state["random"].seed(seed)


class default_generator:
    manual_seed = staticmethod(manual_seed)


def rand_number():
    return _state["random"].random()


def get_default_dtype():
    return _state["dtype"]


def set_default_dtype(value):
    _state["dtype"] = value


def are_deterministic_algorithms_enabled():
    return _state["deterministic"]


def use_deterministic_algorithms(value, warn_only=False):
    _state["deterministic"] = value


@contextmanager
def inference_mode():
    yield


from torch import backends as backends
from torch import cuda
from torch import nn as nn
from torch import version as version

__version__ = version.__version__
