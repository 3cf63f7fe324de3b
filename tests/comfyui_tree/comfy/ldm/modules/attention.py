"""Attention functions, chosen on import."""

import logging
import sys

import comfy_kitchen

import comfy.ops
from comfy.cli_args import args

COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE = comfy_kitchen.int8_attention_is_available()
REGISTERED_ATTENTION_FUNCTIONS = {}


def register_attention_function(name, function):
    REGISTERED_ATTENTION_FUNCTIONS.setdefault(name, function)


def attention_pytorch(q, k, v):
    return comfy.ops.scaled_dot_product_attention(q, k, v)


def attention_comfy_kitchen_int8(q, k, v):
    return comfy_kitchen.int8_attention(q, k, v)


optimized_attention = attention_pytorch

if args.use_ck_attention:
    if COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE:
        optimized_attention = attention_comfy_kitchen_int8
    else:
        logging.error("Comfy Kitchen attention is unavailable.")
        sys.exit(-1)

optimized_attention_masked = optimized_attention

if COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE:
    register_attention_function("comfy_kitchen_int8", attention_comfy_kitchen_int8)
register_attention_function("pytorch", attention_pytorch)
