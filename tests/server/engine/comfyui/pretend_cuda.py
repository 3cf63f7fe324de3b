"""Patches a real torch from outside so that Python code sees one CUDA device."""

import collections
import importlib
import types
from collections.abc import Callable
from typing import Any

NAME = "Pretended GPU"
TOTAL = 24 * 1024**3


def pretend() -> list[Any]:
    """Give ``torch.cuda`` a device, and comfy-aimdo a driver.

    Returns:
        What ``comfy_aimdo.control.init_devices`` is called with, as it happens.
    """
    torch: Any = importlib.import_module("torch")
    if torch.version.cuda is None:
        torch.version.cuda = "13.0"
    properties = types.SimpleNamespace(
        name=NAME, major=8, minor=9, total_memory=TOTAL, multi_processor_count=128,
        warp_size=32, gcnArchName="",
    )  # fmt: skip
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_initialized": True,
        "is_bf16_supported": True,
        "init": None,
        "_lazy_init": None,
        "synchronize": None,
        "set_device": None,
        "empty_cache": None,
        "ipc_collect": None,
        "get_device_name": NAME,
        "get_device_capability": (8, 9),
        "get_device_properties": properties,
        "mem_get_info": (TOTAL - 1024**3, TOTAL),
        "memory_stats": collections.defaultdict[str, int](int),
        "get_allocator_backend": "cudaMallocAsync",
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, _answering(answer))
    return _record_devices()


def _answering(answer: Any) -> Callable[..., Any]:
    def function(*_arguments: Any, **_options: Any) -> Any:
        return answer

    return function


def _record_devices() -> list[Any]:
    called: list[Any] = []
    try:
        control: Any = importlib.import_module("comfy_aimdo.control")
    except ImportError:
        return called

    def init_devices(devices: Any) -> bool:
        called.append(list(devices))
        return True

    def init_device(index: Any) -> bool:
        return init_devices([index])

    control.init_devices = init_devices
    control.init_device = init_device
    return called
