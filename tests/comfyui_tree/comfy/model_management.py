"""Device state and what depends on it, decided on import."""

import enum

import comfy_aimdo.host_buffer
import torch

from comfy.cli_args import PerformanceFeature, args
from comfy.tree_jobs import (
    InterruptProcessingException,
    interrupt_current_processing,
    loaded,
    soft_empty_cache,
    throw_exception_if_processing_interrupted,
    unload_all_models,
)
from comfy.tree_memory import total_memory

__all__ = ["InterruptProcessingException", "interrupt_current_processing", "loaded",
           "soft_empty_cache", "throw_exception_if_processing_interrupted",
           "unload_all_models"]  # fmt: skip


class VRAMState(enum.Enum):
    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4


class CPUState(enum.Enum):
    GPU = 0
    CPU = 1
    MPS = 2


cpu_state = CPUState.CPU if args.cpu else CPUState.GPU
vram_state = VRAMState.NORMAL_VRAM
OOM_EXCEPTION = torch.cuda.OutOfMemoryError
torch_version_numeric = tuple(int(part) for part in torch.__version__.split(".")[:2])
HOST_BUFFERS = comfy_aimdo.host_buffer.lib


def get_torch_device():
    if cpu_state is CPUState.CPU:
        return torch.device("cpu")
    return torch.device(torch.cuda.current_device())


def get_all_torch_devices():
    if is_nvidia():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [get_torch_device()]


def is_nvidia():
    return cpu_state is CPUState.GPU and torch.version.cuda is not None


def set_cudnn_benchmark():
    if torch.cuda.is_available() and torch.backends.cudnn.is_available():
        torch.backends.cudnn.benchmark = PerformanceFeature.AutoTune in args.fast


def get_total_memory(dev=None):
    return total_memory(dev or get_torch_device())


total_vram = get_total_memory(get_torch_device()) / (1024 * 1024)
total_ram = get_total_memory(torch.device("cpu")) / (1024 * 1024)

if args.lowvram:
    vram_state = VRAMState.LOW_VRAM
elif args.novram:
    vram_state = VRAMState.NO_VRAM
elif args.highvram or args.gpu_only:
    vram_state = VRAMState.HIGH_VRAM

if cpu_state is not CPUState.GPU:
    vram_state = VRAMState.DISABLED

MAX_PINNED_MEMORY = -1

if is_nvidia() and not args.disable_pinned_memory:
    MAX_PINNED_MEMORY = get_total_memory(torch.device("cpu")) * 0.4
