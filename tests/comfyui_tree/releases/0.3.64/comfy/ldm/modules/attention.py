"""Attention functions, chosen on import."""

import comfy.ops

REGISTERED_ATTENTION_FUNCTIONS = {}


def register_attention_function(name, function):
    REGISTERED_ATTENTION_FUNCTIONS[name] = function


def attention_pytorch(q, k, v):
    return comfy.ops.scaled_dot_product_attention(q, k, v)


optimized_attention = attention_pytorch
optimized_attention_masked = optimized_attention
register_attention_function("pytorch", attention_pytorch)
