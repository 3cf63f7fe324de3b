"""Allocates on the device when it is imported."""

import torch

BUFFER = torch.zeros(1, device="cuda")
NODE_CLASS_MAPPINGS = {}
