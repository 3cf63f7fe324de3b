"""Memory of this machine and of its simulated device, in bytes."""

import os

import torch


def total_memory(device):
    if device.type == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    torch.cuda.memory_stats(device)
    return torch.cuda.mem_get_info(device)[1]
