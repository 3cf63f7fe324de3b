"""Device state, the interrupt flag, and loaded models."""

import enum
import threading

import torch

from comfy.cli_args import args


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
loaded = []
_lock = threading.RLock()
_interrupted = False


class InterruptProcessingException(Exception):
    pass


def get_torch_device():
    if cpu_state is CPUState.CPU:
        return torch.device("cpu")
    return torch.cuda.current_device()


def get_total_memory(_device=None):
    return 1 << 30


total_vram = get_total_memory(get_torch_device()) / (1 << 20)


def interrupt_current_processing(value=True):
    global _interrupted
    with _lock:
        _interrupted = value


def throw_exception_if_processing_interrupted():
    """Raises once: the flag is down again afterwards."""
    global _interrupted
    with _lock:
        if _interrupted:
            _interrupted = False
            raise InterruptProcessingException


def unload_all_models():
    loaded.clear()


def soft_empty_cache(_force=False):
    pass
