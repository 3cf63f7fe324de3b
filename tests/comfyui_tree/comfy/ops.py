import torch

SMALL = 1024


def scaled_dot_product_attention(q, k, v):
    """On any device."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


try:
    if torch.cuda.is_available():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        SDPA_BACKEND_PRIORITY = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]

        def scaled_dot_product_attention(q, k, v):
            """On a GPU: flash before cuDNN, neither for small inputs."""
            if q.nelement() < SMALL:
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(SDPA_BACKEND_PRIORITY, set_priority=True):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

except (ModuleNotFoundError, TypeError):
    pass
