import torch
from comfy.cli_args import PerformanceFeature, args


def scaled_dot_product_attention(q, k, v):
    """On any device."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


try:
    if torch.cuda.is_available():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        SDPA_BACKEND_PRIORITY = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]

        def scaled_dot_product_attention(q, k, v):
            """On a GPU: cuDNN before flash."""
            with sdpa_kernel(SDPA_BACKEND_PRIORITY, set_priority=True):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

except (ModuleNotFoundError, TypeError):
    pass

if torch.cuda.is_available() and PerformanceFeature.AutoTune in args.fast:
    torch.backends.cudnn.benchmark = True
