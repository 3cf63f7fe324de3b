"""Imports the attention function by name, as models do."""

from comfy.ldm.modules.attention import optimized_attention


def attend(q, k, v):
    return optimized_attention(q, k, v)
