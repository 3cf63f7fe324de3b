"""What changes when a loaded process wakes up: device state, attention wrapper, randomness."""

import importlib
import inspect
import logging
import os
import random
import secrets
import sys
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def reseed(device: str | None = None) -> None:
    """Fresh randomness for Python, numpy and torch: clones of a snapshot share all three.

    Args:
        device: What ``attach_device`` found; on ``cpu`` the generators of absent devices, which
            cost more than all the rest, are left alone.
    """
    random.seed(secrets.randbits(256))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(secrets.randbits(32))
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        here = torch.default_generator if device == "cpu" else torch
        here.manual_seed(secrets.randbits(63))


def attach_device() -> str:
    """Tell ComfyUI which device there is now; its answer at import may be another.

    Returns:
        ``cuda``, ``cpu``, or the name of another accelerator that was seen at import.
    """
    management: Any = importlib.import_module("comfy.model_management")
    arguments: Any = importlib.import_module("comfy.cli_args").args
    torch: Any = sys.modules.get("torch")
    other = _other_accelerator(management)
    if other is not None:
        return other
    has_cuda = torch is not None and bool(torch.cuda.is_available())
    if has_cuda and not arguments.cpu:
        management.cpu_state = management.CPUState.GPU
        management.vram_state = _vram_state(management, arguments)
        device = "cuda"
    else:
        management.cpu_state = management.CPUState.CPU
        management.vram_state = management.VRAMState.DISABLED
        device = "cpu"
    management.total_vram = management.get_total_memory(management.get_torch_device()) / (1 << 20)
    _prefer_fast_attention(torch, device)
    logger.info("attached to %s", device)
    return device


def _other_accelerator(management: Any) -> str | None:
    if management.cpu_state == management.CPUState.MPS:
        return "mps"
    for name in ("xpu", "npu", "mlu"):
        if getattr(management, f"{name}_available", False):
            return name
    return "directml" if getattr(management, "directml_enabled", False) else None


def _vram_state(management: Any, arguments: Any) -> Any:
    """As ``comfy/model_management.py`` decides it at import."""
    states = management.VRAMState
    if arguments.lowvram:
        return states.LOW_VRAM
    if arguments.novram:
        return states.NO_VRAM
    if arguments.highvram or arguments.gpu_only:
        return states.HIGH_VRAM
    return states.NORMAL_VRAM


def _prefer_fast_attention(torch: Any, device: str) -> None:
    """The wrapper that ``comfy/ops.py`` makes only when it sees a GPU at import: it prefers cuDNN,
    then flash and memory-efficient attention."""
    ops: Any = sys.modules.get("comfy.ops")
    plain = getattr(ops, "_comfysnap_plain_attention", None)
    if ops is None or not hasattr(ops, "scaled_dot_product_attention"):
        return
    if plain is None:
        plain = ops.scaled_dot_product_attention
        ops._comfysnap_plain_attention = plain
    if device != "cuda":
        ops.scaled_dot_product_attention = plain
        return
    try:
        attention: Any = importlib.import_module("torch.nn.attention")
    except ImportError:
        return
    if "set_priority" not in inspect.signature(attention.sdpa_kernel).parameters:
        return
    kinds = attention.SDPBackend
    order = [
        kinds.CUDNN_ATTENTION, kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION, kinds.MATH,
    ]  # fmt: skip

    def preferring(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        with attention.sdpa_kernel(order, set_priority=True):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, *args, **kwargs)

    ops.scaled_dot_product_attention = preferring


class ProcessState:
    """What a node may change for the whole process, put back after each job."""

    def __init__(self) -> None:
        self._folder = Path.cwd()
        self._streams = sys.stdout, sys.stderr
        torch: Any = sys.modules.get("torch")
        self._torch = torch if hasattr(torch, "get_default_dtype") else None
        if self._torch is not None:
            self._dtype = self._torch.get_default_dtype()
            self._deterministic = self._torch.are_deterministic_algorithms_enabled()

    def restore(self) -> None:
        """Back to what it was when this was made."""
        os.chdir(self._folder)
        sys.stdout, sys.stderr = self._streams
        torch = self._torch
        if torch is None:
            return
        if torch.get_default_dtype() is not self._dtype:
            torch.set_default_dtype(self._dtype)
        if torch.are_deterministic_algorithms_enabled() is not self._deterministic:
            torch.use_deterministic_algorithms(self._deterministic, warn_only=True)
