"""Gives a loaded process its device, after a restore, a fork or a plain start.

Everything that ComfyUI decided while CUDA was hidden is decided again, so that the process ends up
in the state in which ``main.py`` would have put it on this machine.
"""

import importlib
import logging
import os
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, Final

from comfysnap_server.engine.comfyui.rerun import compile_again
from comfysnap_server.engine.protocol import EngineStartError

logger = logging.getLogger(__name__)

DECIDED_AT_IMPORT: Final = {
    "comfy.model_management": (
        "vram_state",
        "total_vram",
        "total_ram",
        "MAX_PINNED_MEMORY",
        "torch.backends.cudnn.benchmark",  # since 0.25 in a function
    ),
    "comfy.ops": ("scaled_dot_product_attention", "torch.backends.cudnn.benchmark"),
    "comfy.ldm.modules.attention": ("COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE",),
}
"""Per module, the names whose values depend on the device or on the machine's memory."""

ATTENTION: Final = ("optimized_attention", "optimized_attention_masked")
"""Functions that every module with attention imports by name."""


class DeviceMissingError(EngineStartError):
    """A CUDA device is required, and this process cannot use one."""


@dataclass(frozen=True)
class Device:
    """The device that jobs run on."""

    kind: str
    """``cuda``, ``cpu``, or another accelerator that was found at import."""
    name: str
    """Display name, such as ``NVIDIA L40S``; the kind if the device has no name."""
    dynamic_vram: bool = False
    """Whether ComfyUI's DynamicVRAM manages the weights."""


@dataclass
class Attachment:
    """Gives one loaded ComfyUI its device. Created while loading, so that attaching does not
    compile anything."""

    kitchen_attention: bool = False
    """Whether ``--use-ck-attention`` was given; it needs a GPU when ComfyUI is imported."""
    _codes: list[tuple[Any, CodeType]] = field(default_factory=list[tuple[Any, CodeType]])
    _device: Device | None = None

    def prepare(self) -> None:
        """Compile the statements that ``attach`` runs again."""
        for name, names in DECIDED_AT_IMPORT.items():
            module: Any = importlib.import_module(name)
            code = compile_again(module, names)
            if code is not None:
                self._codes.append((module, code))

    def attach(self, required: str | None = None) -> Device:
        """Find the device and configure ComfyUI for it. Can be called again.

        Args:
            required: ``cuda`` makes a missing GPU an error, ``cpu`` ignores the GPU, None uses the
                best device available.

        Raises:
            DeviceMissingError: No CUDA device was found; the message is the reason.
        """
        management: Any = importlib.import_module("comfy.model_management")
        arguments: Any = importlib.import_module("comfy.cli_args").args
        torch: Any = sys.modules.get("torch")
        on_cpu = required == "cpu" or arguments.cpu
        other = None if on_cpu else _other_accelerator(management)
        has_cuda = bool(torch and not on_cpu and torch.cuda.is_available())
        if required == "cuda" and (other or not has_cuda):
            raise DeviceMissingError(f"no CUDA device: {_why_no_cuda(torch)}")
        if other is None:
            states = management.CPUState
            management.cpu_state = states.GPU if has_cuda else states.CPU
        self._decide_again(arguments)
        kind = other or ("cuda" if has_cuda else "cpu")
        dynamic = kind == "cuda" and self._start_dynamic_vram(management, arguments)
        name = str(torch.cuda.get_device_name()) if torch and kind == "cuda" else kind
        self._device = Device(kind, name, dynamic)
        logger.info("attached to %s%s", name, " with DynamicVRAM" if dynamic else "")
        return self._device

    def _decide_again(self, arguments: Any) -> None:
        _register_kitchen()  # before int8 attention looks for its backends
        for module, code in self._codes:
            exec(code, module.__dict__)  # noqa: S102 the module's own statements
        attention: Any = importlib.import_module("comfy.ldm.modules.attention")
        if getattr(attention, "COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE", False):
            if "comfy_kitchen_int8" not in attention.REGISTERED_ATTENTION_FUNCTIONS:
                attention.register_attention_function(
                    "comfy_kitchen_int8", attention.attention_comfy_kitchen_int8
                )
            if self.kitchen_attention:
                arguments.use_ck_attention = True
                _replace_everywhere(attention, attention.attention_comfy_kitchen_int8)
        elif self.kitchen_attention:
            raise DeviceMissingError("--use-ck-attention needs a GPU that comfy-kitchen supports")
        folders: Any = importlib.import_module("folder_paths")
        folders.filename_list_cache.clear()  # it lists files of the machine that made the snapshot
        benchmark: Callable[[], None] | None = getattr(
            importlib.import_module("comfy.model_management"), "set_cudnn_benchmark", None
        )
        if benchmark is not None:
            benchmark()

    def _start_dynamic_vram(self, management: Any, arguments: Any) -> bool:
        """Start DynamicVRAM as ``main.py`` does after its imports. Once per process: it patches
        the driver's library."""
        if self._device is not None and self._device.kind == "cuda":
            return self._device.dynamic_vram
        enables = getattr(importlib.import_module("comfy.cli_args"), "enables_dynamic_vram", None)
        patcher: Any = importlib.import_module("comfy.model_patcher")
        memory: Any = sys.modules.get("comfy.memory_management")
        if enables is None or not enables() or not hasattr(memory, "aimdo_enabled"):
            return False
        forced = getattr(arguments, "enable_dynamic_vram", False)
        new_enough = management.torch_version_numeric >= (2, 8)
        if not forced and not (management.is_nvidia() and new_enough):
            return False
        control: Any = importlib.import_module("comfy_aimdo.control")
        if not _init_devices(control, management, arguments):
            logger.warning("DynamicVRAM is off: comfy-aimdo could not initialise the device")
            return False
        _set_log_level(control)
        patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
        memory.aimdo_enabled = True
        return True


def _init_devices(control: Any, management: Any, arguments: Any) -> bool:
    if not hasattr(management, "get_all_torch_devices"):  # up to 0.22
        return bool(control.init_device(management.get_torch_device().index))
    indices = [device.index for device in management.get_all_torch_devices()]
    if not hasattr(arguments, "vram_headroom"):  # up to 0.27
        return bool(control.init_devices(indices))
    headroom = int(arguments.vram_headroom * 1024**3)
    try:
        return bool(control.init_devices([(index, headroom) for index in indices]))
    except TypeError:  # comfy-aimdo 0.4.9 and before
        return bool(control.init_devices(indices))


def _set_log_level(control: Any) -> None:
    name = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
    set_level = getattr(control, f"set_log_{name}", None) or control.set_log_info
    set_level()


def _register_kitchen() -> None:
    """Register comfy-kitchen's backends again: they looked for CUDA when they were imported."""
    kitchen: Any = sys.modules.get("comfy_kitchen")
    if kitchen is None:
        return
    kitchen.registry.__dict__.pop("_compute_capability", None)  # a cached property
    for backend in ("cuda", "triton"):
        register = getattr(sys.modules.get(f"comfy_kitchen.backends.{backend}"), "_register", None)
        if register is not None:
            register()


def _replace_everywhere(attention: Any, function: Any) -> None:
    for name in ATTENTION:
        old = getattr(attention, name, None)
        for module in list(sys.modules.values()):
            if old is not None and getattr(module, "__dict__", {}).get(name) is old:
                setattr(module, name, function)


def require_cuda() -> None:
    """Check for a CUDA device before ComfyUI is imported without a mask, which would fail in torch.

    Raises:
        DeviceMissingError: No CUDA device was found; the message is the reason.
    """
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise DeviceMissingError(f"no CUDA device: {_why_no_cuda(torch)}")


def _why_no_cuda(torch: Any) -> str:
    if torch is None:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:
        return " ".join(str(error).split())
    return f"torch.cuda finds {torch.cuda.device_count()} devices"


def _other_accelerator(management: Any) -> str | None:
    if management.cpu_state == management.CPUState.MPS:
        return "mps"
    for name in ("xpu", "npu", "mlu"):
        if getattr(management, f"{name}_available", False):
            return name
    return "directml" if getattr(management, "directml_enabled", False) else None


def reseed(device: str | None = None) -> None:
    """Seed Python, numpy and torch anew, since clones of a snapshot share their generators.

    Args:
        device: ``Device.kind``. On ``cpu`` only torch's CPU generator is seeded: seeding those of
            absent devices takes longer than everything else.
    """
    random.seed(secrets.randbits(256))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(secrets.randbits(32))
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        here = torch.default_generator if device == "cpu" else torch
        here.manual_seed(secrets.randbits(63))


class ProcessState:
    """Process-wide state that a node may change, restored after each job."""

    def __init__(self) -> None:
        self._folder = Path.cwd()
        self._streams = sys.stdout, sys.stderr
        torch: Any = sys.modules.get("torch")
        self._torch = torch if hasattr(torch, "get_default_dtype") else None
        if self._torch is not None:
            self._dtype = self._torch.get_default_dtype()
            self._deterministic = self._torch.are_deterministic_algorithms_enabled()

    def restore(self) -> None:
        """Restore the state of when this object was created."""
        os.chdir(self._folder)
        sys.stdout, sys.stderr = self._streams
        torch = self._torch
        if torch is None:
            return
        if torch.get_default_dtype() is not self._dtype:
            torch.set_default_dtype(self._dtype)
        if torch.are_deterministic_algorithms_enabled() is not self._deterministic:
            torch.use_deterministic_algorithms(self._deterministic, warn_only=True)
