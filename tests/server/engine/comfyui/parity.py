"""Loads a ComfyUI as ``main.py`` does or as the engine does, on the same pretended GPU, and writes
down what came of it: ``parity.py main|engine|loaded CHECKOUT [ARGUMENT...]``. ``loaded`` stops
before the engine is attached. With ``REAL_GPU`` set, nothing is pretended."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).parent
MODULES = ("comfy.model_management", "comfy.ops", "comfy.ldm.modules.attention", "comfy.quant_ops",
           "comfy.sd", "comfy.model_patcher", "comfy.memory_management")  # fmt: skip
ENVIRONMENT = ("PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
               "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK",
               "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL")  # fmt: skip
DECISIONS = ("get_torch_device", "unet_offload_device", "text_encoder_device", "vae_device",
             "intermediate_device", "pytorch_attention_enabled", "xformers_enabled",
             "should_use_fp16", "should_use_bf16", "supports_fp8_compute", "supports_nvfp4_compute",
             "is_nvidia", "force_upcast_attention_dtype")  # fmt: skip


def by_main(checkout: Path, arguments: list[str]) -> None:
    """Run ``main.py`` up to the point where it would listen."""
    sys.argv = ["main.py", *arguments, "--quick-test-for-ci", "--disable-api-nodes"]
    sys.argv += ["--database-url", "sqlite:///:memory:"]
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(checkout / "main.py"), run_name="__main__")


def by_engine(checkout: Path, arguments: list[str]) -> None:
    only_loaded(checkout, arguments).attach()


def only_loaded(checkout: Path, arguments: list[str]) -> Any:
    module: Any = importlib.import_module("comfysnap_server.engine.comfyui.engine")
    engine = module.ComfyUIEngine(path=str(checkout), arguments=arguments, device="cuda")
    engine.load()
    return engine


WAYS = {"main": by_main, "engine": by_engine, "loaded": only_loaded}


def constants(module: Any) -> dict[str, Any]:
    """Constants of the module that JSON can represent."""
    kept = (bool, int, float, str, type(None), tuple, list)
    values = cast("dict[str, Any]", module.__dict__)
    return {
        name: value
        for name, value in values.items()
        if name.isupper() and isinstance(value, kept) and _plain(value)
    }


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def decisions(management: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in DECISIONS:
        if hasattr(management, name):
            try:
                found[name] = str(getattr(management, name)())
            except Exception as error:
                found[name] = repr(error)
    return found


def facts() -> dict[str, Any]:
    torch: Any = sys.modules["torch"]
    management: Any = sys.modules["comfy.model_management"]
    attention: Any = sys.modules["comfy.ldm.modules.attention"]
    sdpa = sys.modules["comfy.ops"].scaled_dot_product_attention.__code__
    kitchen: Any = sys.modules.get("comfy_kitchen")
    control: Any = sys.modules.get("comfy_aimdo.control")
    vbar: Any = sys.modules.get("comfy_aimdo.model_vbar")
    memory: Any = sys.modules.get("comfy.memory_management")
    patcher: Any = sys.modules["comfy.model_patcher"]
    using = {
        f"{name}.{attribute}": getattr(module, attribute).__name__
        for name, module in sys.modules.items()
        if name.startswith("comfy.ldm")
        for attribute in ("optimized_attention", "optimized_attention_masked")
        if hasattr(module, attribute)
    }
    return {
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "constants": {
            name: constants(sys.modules[name]) for name in MODULES if name in sys.modules
        },
        "state": {
            "cpu_state": management.cpu_state.name,
            "vram_state": management.vram_state.name,
            "total_vram": management.total_vram,
            "total_ram": management.total_ram,
        },
        "decisions": decisions(management),
        "sdpa": [sdpa.co_firstlineno, hashlib.sha256(sdpa.co_code).hexdigest()],
        "attention": sorted(attention.REGISTERED_ATTENTION_FUNCTIONS)
        if hasattr(attention, "REGISTERED_ATTENTION_FUNCTIONS")
        else [],
        "using": using,
        "kitchen": kitchen.list_backends() if kitchen else None,
        "aimdo": {
            "loaded": getattr(control, "lib", None) is not None,
            "modules_know_it": getattr(vbar, "lib", None) is not None,
            "enabled": getattr(memory, "aimdo_enabled", None),
            "patcher": patcher.CoreModelPatcher.__name__
            if hasattr(patcher, "CoreModelPatcher")
            else None,
        },
        "torch": {
            "benchmark": torch.backends.cudnn.benchmark,
            "flash": torch.backends.cuda.flash_sdp_enabled(),
            "math": torch.backends.cuda.math_sdp_enabled(),
            "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "reduction": torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "classes": sorted(sys.modules["nodes"].NODE_CLASS_MAPPINGS),
    }


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    way, checkout, *arguments = sys.argv[1:]
    os.chdir(checkout)
    sys.path[0] = str(HERE)
    pretend: Any = importlib.import_module("pretend_cuda").pretend
    if way == "main":
        sys.path[0] = checkout
    called: list[Any] = [] if os.environ.get("REAL_GPU") else pretend()
    WAYS[way](Path(checkout), arguments)
    out.write(json.dumps({**facts(), "devices": called}, default=str) + "\n")
    out.flush()
    os._exit(0)  # even if threads are left running


if __name__ == "__main__":
    main()
