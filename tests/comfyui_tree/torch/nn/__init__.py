from torch.nn import attention, functional

__all__ = ["attention", "functional"]
