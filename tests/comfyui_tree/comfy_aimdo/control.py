"""The library and its devices; imported before torch."""

lib = None
devctxs = []
log_level = None


class Library:
    headroom = None
    nvml_pressure = False


def init(implementation=None, simple_vram_headroom=None, nvml_pressure=False):
    global lib
    lib = lib or Library()
    lib.headroom, lib.nvml_pressure = simple_vram_headroom, nvml_pressure
    return True


def init_devices(device_ids):
    """False if the library or the driver is missing."""
    import torch

    global devctxs
    wanted = [index for index, _headroom in device_ids]
    if lib is None or not wanted or not torch.cuda.is_available():
        return False
    devctxs = wanted
    return True


def get_devctx(index):
    if index not in devctxs:
        raise RuntimeError(f"comfy-aimdo device {index} is not initialized")
    return index


def _log_at(level):
    def set_level():
        global log_level
        log_level = level

    return set_level


set_log_critical, set_log_error = _log_at("critical"), _log_at("error")
set_log_warning, set_log_info = _log_at("warning"), _log_at("info")
set_log_debug = _log_at("debug")
