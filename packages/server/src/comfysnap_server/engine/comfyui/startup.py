"""Replaces the part of ``main.py`` before it imports torch: arguments, environment, allocator.

ARCHITECTURE.md compares all steps of ``main.py`` with those of the engine.
"""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from comfysnap_server.engine.comfyui.options import ComfyOptions
from comfysnap_server.pins import UnsupportedComfyError

logger = logging.getLogger(__name__)

PATH_FILES: Final = ("extra_model_paths.yaml", "extra_paths.yaml")
"""Files with model paths in the checkout; the second name is used since 0.38."""
MAX_DEVICES: Final = 32
"""Number of devices that ``main.py`` lists for ``--default-device``."""


def start_up(options: ComfyOptions) -> Any:
    """Prepare this process as ``main.py`` does before it imports torch.

    Returns:
        The module ``folder_paths``.

    Raises:
        UnsupportedComfyError: ComfyUI does not accept the arguments.
        FileNotFoundError: A file of model paths does not exist.
    """
    _enter_checkout(options.checkout)
    arguments = _parse(options)
    folder_paths: Any = importlib.import_module("folder_paths")
    importlib.import_module("utils.extra_config")  # before `nodes` shadows `utils`
    _start_dynamic_vram(arguments)
    _set_environment(arguments)
    importlib.import_module("cuda_malloc")  # sets PYTORCH_CUDA_ALLOC_CONF, which torch reads
    _apply_paths(options, arguments, folder_paths)
    if importlib.util.find_spec("utils.mime_types") is not None:
        importlib.import_module("utils.mime_types").init_mime_types()
    return folder_paths


def _enter_checkout(checkout: Path) -> None:
    """Set the working folder and path of ``main.py``, which node packs rely on."""
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL", "1")
    # both would start threads, with the first prompt or on import (onnxruntime since 1.29, which
    # kornia imports if installed), and make forks and snapshots unsafe
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # else ComfyUI-Manager uses the folder of the main script
    os.environ["COMFYUI_PATH"] = str(checkout)


def _parse(options: ComfyOptions) -> Any:
    """Parse the arguments; possible once per process."""
    given = sys.argv
    sys.argv = ["main.py", *options.arguments]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        arguments: Any = importlib.import_module("comfy.cli_args").args
    except SystemExit as error:
        raise UnsupportedComfyError(
            f"ComfyUI does not accept these arguments: {' '.join(options.arguments)}"
        ) from error
    finally:
        sys.argv = given
    # PromptServer ends the process if the front end's package is missing
    arguments.front_end_root = arguments.front_end_root or str(options.checkout)
    arguments.enable_assets = False
    return arguments


def _start_dynamic_vram(arguments: Any) -> None:
    """Load comfy-aimdo's library before ``comfy.model_management`` is imported, which stores the
    library's address."""
    enabled = getattr(importlib.import_module("comfy.cli_args"), "enables_dynamic_vram", None)
    if enabled is None or not enabled():
        return
    try:
        control: Any = importlib.import_module("comfy_aimdo.control")
    except ImportError as error:
        logger.warning("DynamicVRAM is off: %s", error)
        return
    reserve = getattr(arguments, "reserve_vram", None)
    headroom = None if reserve is None else int(reserve * 1024**3)
    pressure = not getattr(arguments, "disable_nvml_pressure", True)
    for options in (
        {"simple_vram_headroom": headroom, "nvml_pressure": pressure},
        {"simple_vram_headroom": headroom},  # comfy-aimdo 0.4.10
        {},  # comfy-aimdo 0.4.9 and before
    ):
        try:
            control.init(**options)
        except TypeError:
            continue
        return


def _set_environment(arguments: Any) -> None:
    os.environ.update(_device_environment(arguments))
    if getattr(arguments, "deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _device_environment(arguments: Any) -> dict[str, str]:
    """The variables of ``--default-device``, ``--cuda-device`` and ``--oneapi-device-selector``."""
    found: dict[str, str] = {}
    default = getattr(arguments, "default_device", None)
    device = getattr(arguments, "cuda_device", None)
    if device == "all":  # since 0.38: use the environment
        default = device = None
    if default is not None:
        order = [default, *(number for number in range(MAX_DEVICES) if number != default)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, order))
    if device is not None:
        found["CUDA_VISIBLE_DEVICES"] = str(device)
        found["ASCEND_RT_VISIBLE_DEVICES"] = str(device)
    if "CUDA_VISIBLE_DEVICES" in found:
        found["HIP_VISIBLE_DEVICES"] = found["CUDA_VISIBLE_DEVICES"]
    selector = getattr(arguments, "oneapi_device_selector", None)
    if selector is not None:
        found["ONEAPI_DEVICE_SELECTOR"] = selector
    return found


def _apply_paths(options: ComfyOptions, arguments: Any, folder_paths: Any) -> None:
    load: Any = importlib.import_module("utils.extra_config").load_extra_path_config
    named: Sequence[Sequence[str]] = getattr(arguments, "extra_model_paths_config", None) or ()
    for file in _path_files(options, chain.from_iterable(named)):
        load(str(file))
    if getattr(arguments, "user_directory", None):
        folder_paths.set_user_directory(str(Path(arguments.user_directory).absolute()))


def _path_files(options: ComfyOptions, named: Iterator[str]) -> Iterator[Path]:
    for name in PATH_FILES:
        if (options.checkout / name).is_file():
            yield options.checkout / name
    for file in (*options.extra_model_paths, *map(Path, named)):
        if not file.is_file():
            raise FileNotFoundError(f"extra_model_paths: {file} does not exist")
        yield file
