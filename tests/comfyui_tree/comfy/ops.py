import torch

GPU_AT_IMPORT = torch.cuda.is_available()


def scaled_dot_product_attention(q, k, v):
    return q
