"""Allocates on the device on import."""

import torch

BUFFER = torch.zeros(1, device="cuda")
NODE_CLASS_MAPPINGS = {}
