"""Device state, decided on import."""

import enum

import torch
from comfy.cli_args import args
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


def get_torch_device():
    if cpu_state is CPUState.CPU:
        return torch.device("cpu")
    return torch.device(torch.cuda.current_device())


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
